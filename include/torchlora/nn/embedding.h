#pragma once

#include <torch/nn/modules/embedding.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// A `torch::nn::Embedding` whose forward a LoRA layer can take over. Maps
/// indices [*] to vectors [*, embedding_dim] and multiplies these by
/// `embed_scale`, as Gemma does. The vectors have the table's dtype, or fp32
/// (`gives_fp32`).
class TORCHLORA_API EmbeddingImpl
    : public Adaptable<torch::nn::EmbeddingImpl, EmbeddingImpl> {
 public:
  /// @{
  /// Takes the arguments of `torch::nn::Embedding`. A layer made from `base`
  /// shares the table of `base`.
  EmbeddingImpl(int64_t num_embeddings, int64_t embedding_dim)
      : EmbeddingImpl(
            torch::nn::EmbeddingOptions(num_embeddings, embedding_dim)) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingOptions& options_)
      : Adaptable(options_) {}
  explicit EmbeddingImpl(const torch::nn::EmbeddingImpl& base)
      : Adaptable(base) {}
  /// @}
  ~EmbeddingImpl() override;

  /// Returns a layer that uses the tensor `weight`
  /// [num_embeddings, embedding_dim] as its table, in any dtype. Copies and
  /// initializes nothing.
  static std::shared_ptr<EmbeddingImpl> from_weight(const Tensor& weight) {
    auto layer = std::make_shared<EmbeddingImpl>(1, 1);
    layer->options.num_embeddings(weight.size(0)).embedding_dim(weight.size(1));
    layer->weight.set_data(weight);
    return layer;
  }

  Tensor base_forward(const Tensor& input) override {
    return scaled(torch::nn::EmbeddingImpl::forward(input));
  }

  /// Returns a copy with its own table and the same `embed_scale`, on `device`
  /// if given. Throws c10::Error while an adapter is attached to the layer,
  /// because the copy would lack it; unload the adapter first.
  std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    auto copy =
        std::dynamic_pointer_cast<EmbeddingImpl>(Adaptable::clone(device));
    copy->embed_scale = embed_scale;
    copy->gives_fp32 = gives_fp32;
    return copy;
  }

  /// Returns what the layer makes of `rows` of its table, [*, embedding_dim]:
  /// they are scaled, and fp32 if `gives_fp32`.
  Tensor scaled(const Tensor& rows) const {
    const auto wide = widened(rows);
    return embed_scale == 1 ? wide : wide * embed_scale;
  }
  /// Returns `rows` of the table in the dtype of the output.
  Tensor widened(const Tensor& rows) const {
    return gives_fp32 && at::isReducedFloatingType(rows.scalar_type())
        ? rows.to(at::kFloat)
        : rows;
  }

  /// The layer multiplies its output by this factor. With 1 it computes what
  /// `torch::nn::Embedding` does.
  double embed_scale = 1;
  /// Whether a bf16 or fp16 table gives fp32 vectors. What an adapter adds to
  /// them keeps its digits then.
  bool gives_fp32 = false;
};
TORCH_MODULE(Embedding);

} // namespace torchlora::nn
