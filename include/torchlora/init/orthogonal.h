#pragma once

#include <torch/types.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// The initializer "orthogonal". Sets A and B to nonzero matrices whose product
/// B A is zero: the columns of A are random combinations of the even rows of an
/// orthogonal matrix Q [r, r], the rows of B random combinations of its odd
/// rows. ValueError for an odd rank.
inline void orthogonal_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  const auto r = arguments.r;
  TORCH_CHECK_VALUE(
      r % 2 == 0,
      "[init_lora_weights] orthogonal requires the LoRA rank to be even, got ",
      r);
  const auto in = factors.A.size(1), out = factors.B.size(0);
  const auto Q = std::get<0>(at::linalg_qr(at::randn({r, r})));
  const auto even = Q.slice(0, 0, r, 2), odd = Q.slice(0, 1, r, 2);
  factors.A = at::mm(at::randn({in, r / 2}), even).t() / 10;
  factors.B = at::mm(at::randn({r / 2, out}).t(), odd) / 10;
}

} // namespace torchlora::init
