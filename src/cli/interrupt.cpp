#include "cli/interrupt.h"

#include <csignal>
#include <string_view>

#include <unistd.h>

namespace torchlora::cli {
namespace {

std::atomic<bool> stop{false};
/// Whether a person or a system asked, by SIGINT or SIGTERM.
std::atomic<bool> asked{false};
static_assert(std::atomic<bool>::is_always_lock_free);

void print(std::string_view text) {
  [[maybe_unused]] ssize_t written =
      write(STDERR_FILENO, text.data(), text.size());
}

// NOTE: a signal handler; only async-signal-safe calls.
void on_signal(int signal) {
  const bool again = signal != SIGHUP && asked.exchange(true);
  if (again) {
    print("\ntorchlora: ended at once; nothing more was saved\n");
    _exit(kInterrupted);
  }
  if (stop.exchange(true)) {
    return;
  }
  print("\ntorchlora: stopping and saving; once more to end at once\n");
}

} // namespace

void handle_interrupts() {
  struct sigaction action{};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  struct sigaction before{};
  sigaction(SIGHUP, nullptr, &before);
  if (before.sa_handler != SIG_IGN) {
    sigaction(SIGHUP, &action, nullptr);
  }
}

const std::atomic<bool>& stop_requested() {
  return stop;
}

} // namespace torchlora::cli
