#pragma once

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// "mica": B is the r left singular vectors of the smallest singular values of
/// W, and is not trained; A is zero. arXiv:2604.01694.
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
