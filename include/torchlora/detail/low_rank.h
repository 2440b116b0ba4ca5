#pragma once

#include <memory>

#include <torchlora/types.h>

#include <torchlora/export.h>

namespace torchlora {
class LoraVariant;
}

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// One update that `low_rank_linear` adds to a product: scaling · B A
/// dropout(x), with A [r, in] and B [out, r].
struct LowRankTerm {
  Tensor A, B;
  double scaling;
  /// The dropout probability; 0 means no dropout.
  double dropout;
  /// The variant whose `compress(x)` is stored for the gradient of A instead of
  /// the input x; nullptr: x is stored.
  std::shared_ptr<LoraVariant> variant = nullptr;
};

/// Returns y = x Wᵀ + b + Σ scaling · B A dropout(x), computed by one autograd
/// function. `input` x is [*, in], `weight` W [out, in], `bias` b [out] or
/// undefined; y [*, out] has the dtype of x Wᵀ + b. For backward it stores A x,
/// and x only if a trained factor A or a trained weight needs it.
TORCHLORA_API Tensor low_rank_linear(
    const Tensor& input,
    const Tensor& weight,
    const Tensor& bias,
    const std::vector<LowRankTerm>& terms);

} // namespace torchlora::detail
