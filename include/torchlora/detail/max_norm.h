#pragma once

#include <ATen/Functions.h>
#include <torch/nn/options/embedding.h>

#include <torchlora/types.h>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns factors [*, 1] by which `rows` [*, dim] must be multiplied so that
/// no row has a norm above the `max_norm` of the options. Follows
/// `at::embedding_renorm_`, whose factors are not rounded to half precision;
/// has no gradient.
inline Tensor max_norm_scale(
    const Tensor& rows,
    const torch::nn::EmbeddingOptions& options) {
  const auto norm = rows.detach()
                        .norm(options.norm_type(), {-1}, /*keepdim=*/true)
                        .to(at::kDouble);
  const auto max_norm = *options.max_norm();
  return at::where(norm > max_norm, max_norm / (norm + 1e-7), 1.0)
      .to(c10::promoteTypes(rows.scalar_type(), at::kFloat));
}

} // namespace torchlora::detail
