#include <torchlora/nn/embedding.h>

namespace torchlora::nn {

EmbeddingImpl::EmbeddingImpl(const torch::nn::EmbeddingImpl& base)
    : Adaptable(base) {
  if (const auto* scaled = dynamic_cast<const EmbeddingImpl*>(&base)) {
    embed_scale = scaled->embed_scale;
  }
}

at::Tensor EmbeddingImpl::base_forward(const at::Tensor& input) {
  const auto rows = torch::nn::EmbeddingImpl::forward(input);
  return embed_scale == 1 ? rows : rows * embed_scale;
}

} // namespace torchlora::nn
