#pragma once

#include <functional>
#include <string>
#include <vector>

#include <c10/util/Exception.h>

namespace torchlora {

/// The steps that take back a change of several layers, if it fails halfway.
class Undo {
 public:
  /// Adds a step, which runs before the steps that were added earlier. `what`
  /// names what the step restores, for a warning. A step should allocate no
  /// tensor: the change may have failed because there is no memory.
  void add(std::string what, std::function<void()> step) {
    steps_.push_back({std::move(what), std::move(step)});
  }
  /// Runs the steps. One that fails does not keep the others from running; a
  /// warning names what it should have restored. Throws nothing.
  void run() noexcept {
    for (; !steps_.empty(); steps_.pop_back()) {
      const auto& step = steps_.back();
      try {
        step.run();
      } catch (const std::exception& e) {
        warn(step.what, e.what());
      } catch (...) {
        warn(step.what, "an unknown error");
      }
    }
  }

 private:
  struct Step {
    std::string what;
    std::function<void()> run;
  };
  static void warn(const std::string& what, const char* reason) noexcept {
    try {
      TORCH_WARN(what, " could not be given back what it had: ", reason);
    } catch (...) { // by the user's warning handler, or without memory
    }
  }
  std::vector<Step> steps_;
};

/// Runs `change(undo)`, which adds to `undo` how to take back what it does. If
/// it throws, runs these steps and throws the same error.
template <class Change>
void all_or_nothing(const Change& change) {
  Undo undo;
  try {
    change(undo);
  } catch (...) {
    undo.run();
    throw;
  }
}

} // namespace torchlora
