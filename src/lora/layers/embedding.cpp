#include <torchlora/lora/layers/embedding.h>

#include <torch/types.h>

#include "nn/max_norm.h"

namespace torchlora {

LoraEmbedding::LoraEmbedding(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    BaseWeightAccessor accessor)
    : LoraLayer(base_layer, std::move(accessor), kFactorNames),
      base_(base_layer->as<torch::nn::EmbeddingImpl>()) {
  TORCH_INTERNAL_ASSERT(base_);
}

init::Factors LoraEmbedding::construct_factors(
    const LoraConfig& /*config*/,
    int64_t r) const {
  const auto base = base_weight();
  auto A = at::randn({r, base.in_features()});
  return {A, at::randn({base.out_features(), r})};
}

init::Initializer LoraEmbedding::find_initializer(
    const InitLoraWeights& value) const {
  const auto found = LoraLayer::find_initializer(value);
  return found == init::default_init || found == init::gaussian_init
      ? init::embedding_init
      : found;
}

void LoraEmbedding::check_config(const LoraConfig& config) const {
  TORCH_CHECK_VALUE(
      !config.lora_bias(),
      "[update_layer] lora_bias is not supported for embeddings, which have "
      "no bias");
}

at::Tensor LoraEmbedding::look_up(
    const at::Tensor& table,
    const at::Tensor& input) const {
  if (is_unmodified()) {
    return operation(input, table, {});
  }
  return at::embedding(
      table,
      input,
      base_->options.padding_idx().value_or(-1),
      base_->options.scale_grad_by_freq(),
      base_->options.sparse());
}

at::Tensor LoraEmbedding::product(
    const at::Tensor& input,
    const std::vector<Term>& terms,
    const at::Tensor& /*bias*/) {
  return with_updates(look_up(base_weight().weight(), input), input, terms);
}

at::Tensor LoraEmbedding::update(const at::Tensor& input, const Term& term) {
  const auto A = look_up(term.adapter->lora_A->weight.t(), input);
  return at::matmul(A, term.adapter->lora_B->weight.t()) * term.scaling;
}

at::Tensor LoraEmbedding::weight_input(const at::Tensor& input) const {
  constexpr int64_t kLargest = 1 << 14;
  const auto table = base_weight().weight();
  const auto rows = table.size(0);
  TORCH_CHECK_VALUE(
      rows <= kLargest,
      "[observe] an embedding's input is a row of as many elements as its "
      "table has rows; ",
      rows,
      " are more than ",
      kLargest,
      "; leave it out by exclude_modules");
  return at::one_hot(input.flatten(), rows).to(table.scalar_type());
}

at::Tensor LoraEmbedding::adapted_forward(
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  std::vector<Term> without_dropout = terms;
  for (auto& term : without_dropout) {
    term.dropout = 0;
  }
  auto rows = LoraLayer::adapted_forward(input, without_dropout);
  if (base_->options.max_norm()) {
    rows = rows * nn::max_norm_scale(rows, base_->options);
  }
  const auto* scaled = dynamic_cast<const nn::EmbeddingImpl*>(base_);
  return scaled && scaled->embed_scale != 1 ? rows * scaled->embed_scale : rows;
}

} // namespace torchlora
