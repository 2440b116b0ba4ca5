#pragma once

#include <torchlora/lora/adapter.h>

namespace torchlora::detail {

/// Not public. Returns (F Fᵀ + damping · I)⁻¹ [r, r] for a factor F [r, n], in
/// at least fp32. If F has rows of zeros, as a padded factor does, it returns
/// the pseudo-inverse.
TORCHLORA_API Tensor damped_inverse(const Tensor& factor, double damping);

/// ValueError if the update of an adapter is not the product of its own A and
/// B, or if these are complex, which the optimizers do not support.
inline void check_plain_factors(
    const LoraAdapter& adapter,
    const char* function) {
  TORCH_CHECK_VALUE(
      adapter.factors().first.is_same(adapter.lora_A->weight),
      "[",
      function,
      "] the update of adapter ",
      adapter.name,
      " has more factors than A and B (kasa_config); use another optimizer");
  TORCH_CHECK_VALUE(
      !adapter.lora_A->weight.is_complex(),
      "[",
      function,
      "] the factors of adapter ",
      adapter.name,
      " are complex; use another optimizer");
}

} // namespace torchlora::detail
