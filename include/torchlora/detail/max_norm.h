#pragma once

#include <ATen/Functions.h>
#include <torch/nn/options/embedding.h>

#include <torchlora/tensor.h>

/// Not public: for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns the factors [*, 1] that hold rows [*, dim] to the norm `max_norm` of
/// the options, without a gradient, by the rule of `at::embedding_renorm_`.
inline Tensor max_norm_scale(
    const Tensor& rows,
    const torch::nn::EmbeddingOptions& options) {
  const auto norm =
      rows.detach().norm(options.norm_type(), {-1}, /*keepdim=*/true);
  const auto max_norm = *options.max_norm();
  return at::where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
      .to(rows.scalar_type());
}

} // namespace torchlora::detail
