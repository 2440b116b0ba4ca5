#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

namespace torchlora {

struct LoraVelora;

/// One update of a product: scaling · B A dropout(x).
struct LowRankTerm {
  at::Tensor A, B;
  double scaling;
  /// 0: none.
  double dropout;
  /// nullptr: none. Its vector follows the input while A is trained.
  LoraVelora* velora = nullptr;
};

/// y = x Wᵀ + b + Σ terms in one autograd function that keeps x and A x only,
/// and x only for a factor A or a weight that is trained and needs it.
/// `input` [*, in], `weight` [out, in], `bias` [out] or undefined; the output
/// [*, out] has the dtype of the product alone.
at::Tensor low_rank_linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias,
    const std::vector<LowRankTerm>& terms);

} // namespace torchlora
