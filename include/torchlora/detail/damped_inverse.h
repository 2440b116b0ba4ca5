#pragma once

#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Not public. (F Fᵀ + damping I)⁻¹ of a factor F [r, n], in at least fp32. A
/// padded factor has rows of zeros, so this is the pseudo-inverse.
TORCHLORA_API Tensor damped_inverse(const Tensor& factor, double damping);

} // namespace torchlora::detail
