#include <torchlora/nn/embedding.h>

namespace torchlora::nn {

std::shared_ptr<EmbeddingImpl> EmbeddingImpl::from_weight(
    const at::Tensor& weight) {
  auto layer = std::make_shared<EmbeddingImpl>(1, 1);
  layer->options.num_embeddings(weight.size(0)).embedding_dim(weight.size(1));
  layer->weight.set_data(weight);
  return layer;
}

at::Tensor EmbeddingImpl::base_forward(const at::Tensor& input) {
  const auto rows = torch::nn::EmbeddingImpl::forward(input);
  return embed_scale == 1 ? rows : rows * embed_scale;
}

std::shared_ptr<torch::nn::Module> EmbeddingImpl::clone(
    const std::optional<torch::Device>& device) const {
  auto copy =
      std::dynamic_pointer_cast<EmbeddingImpl>(Adaptable::clone(device));
  copy->embed_scale = embed_scale;
  return copy;
}

} // namespace torchlora::nn
