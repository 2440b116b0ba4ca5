#pragma once

#include <ATen/Functions.h>

#include <torchlora/types.h>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns `x` with each element set to 0 with the given `probability` and the
/// others divided by 1 − probability. `at::dropout`, also for complex tensors.
inline Tensor dropout(const Tensor& x, double probability) {
  if (!x.is_complex() || probability == 0) {
    return at::dropout(x, probability, /*train=*/true);
  }
  const auto mask = at::ones_like(
      x, x.options().dtype(c10::toRealValueType(x.scalar_type())));
  return x * at::dropout(mask, probability, /*train=*/true);
}

} // namespace torchlora::detail
