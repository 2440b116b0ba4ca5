#include "model/guard_holds.h"

#include <algorithm>

#include <c10/util/Exception.h>

namespace torchlora {

std::shared_ptr<void> GuardHolds::hold(
    bool switches_off,
    const char* function) {
  const auto thread = std::this_thread::get_id();
  std::unique_lock lock(mutex_);
  TORCH_CHECK(
      std::ranges::none_of(
          holds_,
          [&](const Hold& other) {
            return other.thread != thread &&
                (switches_off || other.switches_off);
          }),
      "[",
      function,
      "] another thread holds a guard of this model (disable_adapter or "
      "mixed_batch), and adapters that one of them switches off would be off "
      "for both; use the guards one after the other, or give each thread a "
      "model of its own (docs/threads.md)");
  holds_.push_back({thread, switches_off});
  const auto position = std::prev(holds_.end());
  // The pointer takes the hold back itself if there is no memory for it.
  lock.unlock();
  return {this, [position](GuardHolds* holds) {
            const std::lock_guard guard(holds->mutex_);
            holds->holds_.erase(position);
          }};
}

} // namespace torchlora
