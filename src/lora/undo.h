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
  /// Runs the steps. One that fails is a warning, and the others run too.
  void run() {
    for (; !steps_.empty(); steps_.pop_back()) {
      try {
        steps_.back().run();
      } catch (const std::exception& e) {
        TORCH_WARN(
            steps_.back().what,
            " could not be given back what it had: ",
            e.what());
      }
    }
  }

 private:
  struct Step {
    std::string what;
    std::function<void()> run;
  };
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
