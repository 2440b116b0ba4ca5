#pragma once

#include <algorithm>
#include <array>

#include <c10/core/ScalarType.h>

namespace torchlora {

/// Returns whether tensors of `dtype` can be trained. Integers and fp8 cannot:
/// factors in their dtype would be rounded to zeros.
inline bool is_trainable_dtype(at::ScalarType dtype) {
  using enum at::ScalarType;
  constexpr std::array kDtypes{
      Double, Float, BFloat16, Half, ComplexDouble, ComplexFloat};
  return std::ranges::find(kDtypes, dtype) != kDtypes.end();
}

} // namespace torchlora
