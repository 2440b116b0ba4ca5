#pragma once

#include <torch/nn/modules/embedding.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// `torch::nn::Embedding` that can be adapted: indices [*] → [*,
/// embedding_dim]. What is looked up is multiplied by `embed_scale` (Gemma's
/// scaled embeddings).
class TORCHLORA_API EmbeddingImpl
    : public Adaptable<torch::nn::EmbeddingImpl, EmbeddingImpl> {
 public:
  /// @{
  /// As `torch::nn::Embedding`'s.
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim)
      : EmbeddingImpl(
            torch::nn::EmbeddingOptions(num_embeddings, embedding_dim)) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingOptions& options_)
      : Adaptable(options_) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingImpl& base)
      : Adaptable(base) {}
  /// @}

  /// A layer around an existing table [num_embeddings, embedding_dim] of any
  /// dtype: nothing is allocated, initialised or copied.
  static std::shared_ptr<EmbeddingImpl> from_weight(const at::Tensor& weight);

  at::Tensor base_forward(const at::Tensor& input) override;

  /// Throws while the layer is adapted.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// 1: what `torch::nn::Embedding` does.
  double embed_scale = 1;
};
TORCH_MODULE(Embedding);

} // namespace torchlora::nn
