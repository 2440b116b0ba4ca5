#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <thread>

namespace torchlora {

/// The guards (`disable_adapter`, `mixed_batch`) of a model that live now. A
/// guard that switches adapters off does so for all threads, and guards of two
/// threads would restore what is not there any more. So such a guard is refused
/// while another thread has a guard, and keeps those of other threads away.
class GuardHolds {
 public:
  /// Records a guard of this thread until the returned object is destroyed.
  /// c10::Error, with the name of `function`, if a guard of another thread
  /// lives and this one or that one `switches_off` adapters.
  [[nodiscard]] std::shared_ptr<void> hold(
      bool switches_off,
      const char* function);

 private:
  struct Hold {
    std::thread::id thread;
    bool switches_off;
  };
  std::mutex mutex_;
  std::list<Hold> holds_;
};

} // namespace torchlora
