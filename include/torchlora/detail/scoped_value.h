#pragma once

#include <utility>

namespace torchlora::detail {

/// Not public. Gives a variable another value for the lifetime of the object.
template <class T>
class ScopedValue {
 public:
  /// Writes `value` to `variable`.
  ScopedValue(T& variable, T value)
      : variable_(variable),
        before_(std::exchange(variable, std::move(value))) {}
  /// Restores the value from before.
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
