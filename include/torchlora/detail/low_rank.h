#pragma once

#include <memory>
#include <vector>

#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora {
class LoraVariant;
}

/// Not public: for inline code of the library's own headers.
namespace torchlora::detail {

/// One update of a product: scaling · B A dropout(x).
struct LowRankTerm {
  Tensor A, B;
  double scaling;
  /// 0: none.
  double dropout;
  /// Compresses the input while A is trained; nullptr: it is kept.
  std::shared_ptr<LoraVariant> variant = nullptr;
};

/// Returns y = x Wᵀ + b + Σ terms by one autograd function that keeps x and A x
/// only, and x only for a factor A or a weight that is trained and needs it.
/// `input` [*, in], `weight` [out, in], `bias` [out] or undefined; the output
/// [*, out] has the dtype of the product alone.
TORCHLORA_API Tensor low_rank_linear(
    const Tensor& input,
    const Tensor& weight,
    const Tensor& bias,
    const std::vector<LowRankTerm>& terms);

} // namespace torchlora::detail
