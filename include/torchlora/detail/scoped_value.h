#pragma once

#include <utility>

namespace torchlora::detail {

/// Not public. An object that gives a variable another value while it lives;
/// its destructor restores the old value.
template <class T>
class ScopedValue {
 public:
  /// Saves the value of `variable` and writes `value` to it.
  ScopedValue(T& variable, T value)
      : variable_(variable),
        before_(std::exchange(variable, std::move(value))) {}
  /// Restores the value that the variable had before.
  ~ScopedValue() {
    variable_ = std::move(before_);
  }
  ScopedValue(const ScopedValue&) = delete;
  ScopedValue& operator=(const ScopedValue&) = delete;

 private:
  T& variable_;
  T before_;
};

} // namespace torchlora::detail
