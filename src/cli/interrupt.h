#pragma once

#include <atomic>

namespace torchlora::cli {

/// The exit code of a run that Ctrl-C, SIGTERM or a closed terminal (SIGHUP)
/// ended.
constexpr int kInterrupted = 130;

/// Installs a signal handler: the first SIGINT, SIGTERM or SIGHUP sets
/// `stop_requested()`, the second SIGINT or SIGTERM ends the program at once.
/// More than one SIGHUP comes with one closed terminal, so SIGHUP only asks
/// for the stop. It stays ignored if it was (nohup).
void handle_interrupts();

const std::atomic<bool>& stop_requested();

} // namespace torchlora::cli
