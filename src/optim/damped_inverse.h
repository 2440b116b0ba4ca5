#pragma once

#include <ATen/core/Tensor.h>

namespace torchlora {

/// (F Fᵀ + damping I)⁻¹ of a factor F [r, n], in fp32 at least: the
/// pseudo-inverse, as a padded factor has rows of zeros.
at::Tensor damped_inverse(const at::Tensor& factor, double damping);

} // namespace torchlora
