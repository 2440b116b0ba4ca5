#pragma once

#include <torch/nn/modules/embedding.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// A `torch::nn::Embedding` that can be adapted: indices [*] → [*,
/// embedding_dim]. The result is multiplied by `embed_scale`, as in Gemma's
/// scaled embeddings.
class TORCHLORA_API EmbeddingImpl
    : public Adaptable<torch::nn::EmbeddingImpl, EmbeddingImpl> {
 public:
  /// @{
  /// Same as `torch::nn::Embedding`.
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim)
      : EmbeddingImpl(
            torch::nn::EmbeddingOptions(num_embeddings, embedding_dim)) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingOptions& options_)
      : Adaptable(options_) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingImpl& base)
      : Adaptable(base) {}
  /// @}
  ~EmbeddingImpl() override;

  /// Wraps a layer around an existing table [num_embeddings, embedding_dim] of
  /// any dtype. Allocates, initializes and copies nothing.
  static std::shared_ptr<EmbeddingImpl> from_weight(const Tensor& weight) {
    auto layer = std::make_shared<EmbeddingImpl>(1, 1);
    layer->options.num_embeddings(weight.size(0)).embedding_dim(weight.size(1));
    layer->weight.set_data(weight);
    return layer;
  }

  Tensor base_forward(const Tensor& input) override {
    const auto rows = torch::nn::EmbeddingImpl::forward(input);
    return embed_scale == 1 ? rows : rows * embed_scale;
  }

  /// Throws while the layer is adapted.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    auto copy =
        std::dynamic_pointer_cast<EmbeddingImpl>(Adaptable::clone(device));
    copy->embed_scale = embed_scale;
    return copy;
  }

  /// 1 is `torch::nn::Embedding`.
  double embed_scale = 1;
};
TORCH_MODULE(Embedding);

} // namespace torchlora::nn
