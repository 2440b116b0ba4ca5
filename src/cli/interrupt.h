#pragma once

#include <atomic>

namespace torchlora::cli {

/// The exit code of a run that Ctrl-C or SIGTERM ended.
constexpr int kInterrupted = 130;

/// Installs a signal handler: the first SIGINT or SIGTERM sets
/// `stop_requested()`, the second ends the program at once.
void handle_interrupts();

const std::atomic<bool>& stop_requested();

} // namespace torchlora::cli
