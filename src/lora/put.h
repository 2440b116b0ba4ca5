#pragma once

#include <ATen/core/Tensor.h>

namespace torchlora {

/// Puts a matrix in the first places of a factor, the others are zero. Call
/// without gradient mode.
inline void put(at::Tensor factor, const at::Tensor& matrix) {
  factor.zero_();
  factor.flatten(1)
      .narrow(0, 0, matrix.size(0))
      .narrow(1, 0, matrix.size(1))
      .copy_(matrix);
}

} // namespace torchlora
