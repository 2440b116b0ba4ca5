#include "io/bus_error.h"

#include <unistd.h>
#include <csignal>

#include <array>
#include <atomic>
#include <cstring>
#include <mutex>

// The fault can come from any thread, in the middle of a matrix product, so no
// exception can be thrown from it, and a page of zeros in its place would give
// wrong results. The process ends, as by the signal itself, but says why. The
// handler may only use what is safe in a signal handler: it reads a table of
// atomics and calls write and _exit. A SIGBUS for any other address goes to the
// handler that was installed before.
//
// Limits: a handler that the program installs later replaces this one. A
// mapping beyond the first 1024 is not named.

namespace torchlora::io {
namespace {

constexpr int kBadData = 3; // the program's exit code for a DataError

struct Mapping {
  std::atomic<const char*> data = nullptr;
  std::atomic<size_t> size = 0;
  std::atomic<const char*> message = nullptr;
};

std::array<Mapping, 1024> mappings;
std::mutex mappings_mutex;
struct sigaction previous;

void print(const char* text) {
  if (::write(STDERR_FILENO, text, std::strlen(text)) < 0) {
    return; // there is nobody to tell
  }
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const auto* address = static_cast<const char*>(info->si_addr);
  for (const auto& mapping : mappings) {
    const auto* data = mapping.data.load();
    if (data && address >= data && address < data + mapping.size.load()) {
      print(mapping.message.load());
      ::_exit(kBadData);
    }
  }
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    ::sigaction(signal, &previous, nullptr); // it comes again, to the default
  }
}

void install_handler() {
  struct sigaction action = {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  ::sigemptyset(&action.sa_mask);
  ::sigaction(SIGBUS, &action, &previous);
}

} // namespace

void watch_mapping(const char* data, size_t size, const char* message) {
  static std::once_flag installed;
  std::call_once(installed, install_handler);
  const std::lock_guard lock(mappings_mutex);
  for (auto& mapping : mappings) {
    if (!mapping.data.load()) {
      mapping.size = size;
      mapping.message = message;
      mapping.data = data; // last: the handler looks at it first
      return;
    }
  }
}

void forget_mapping(const char* data) {
  const std::lock_guard lock(mappings_mutex);
  for (auto& mapping : mappings) {
    if (mapping.data.load() == data) {
      mapping.data = nullptr;
      return;
    }
  }
}

} // namespace torchlora::io
