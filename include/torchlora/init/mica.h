#pragma once

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// The initializer "mica". Sets B to the left singular vectors of the r
/// smallest singular values of W, and A to zero. The adapter trains only A.
/// arXiv:2604.01694.
inline void mica_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  const auto weight = weight_to_decompose(arguments, "mica");
  const auto U = std::get<0>(at::linalg_svd(weight, /*full_matrices=*/false));
  factors.B = U.narrow(1, U.size(1) - arguments.r, arguments.r);
  factors.A = at::zeros_like(factors.A);
}

} // namespace torchlora::init
