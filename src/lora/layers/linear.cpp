#include <torchlora/lora/layers/linear.h>

#include <torch/types.h>

#include <torchlora/lora/layers/clippable_linear.h>
#include <torchlora/nn/compute.h>

#include "lora/low_rank.h"

namespace torchlora {

at::Tensor LoraLinear::product(
    const at::Tensor& input,
    const std::vector<Term>& terms,
    const at::Tensor& bias) {
  const auto weight = rows(base_weight().matrix());
  // An operation on some rows of the weight has a bias of those only.
  const auto own_bias =
      bias.defined() && bias.size(0) != weight.size(0) ? rows(bias) : bias;
  if (terms.empty()) {
    return nn::linear(input, weight, own_bias);
  }
  std::vector<LowRankTerm> low_rank;
  for (const auto& term : terms) {
    low_rank.push_back(
        {term.adapter->lora_A->weight,
         rows(term.adapter->lora_B->weight),
         term.scaling,
         term.dropout,
         is_training() && adapters_enabled() ? term.adapter->velora.get()
                                             : nullptr});
  }
  return low_rank_linear(input, weight, own_bias, low_rank);
}

at::Tensor LoraLinear::update(const at::Tensor& input, const Term& term) {
  const auto& A = term.adapter->lora_A->weight;
  const auto x = at::dropout(input.to(A.scalar_type()), term.dropout, true);
  return at::linear(at::linear(x, A), rows(term.adapter->lora_B->weight)) *
      term.scaling;
}

at::Tensor LoraLinear::weight_input(const at::Tensor& input) const {
  return input.reshape({-1, input.size(-1)});
}

LoraClippableLinear::LoraClippableLinear(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    BaseWeightAccessor accessor)
    : LoraLinear(base_layer, std::move(accessor)),
      base_(base_layer->as<nn::ClippableLinearImpl>()) {
  TORCH_INTERNAL_ASSERT(base_);
}

at::Tensor LoraClippableLinear::adapted_forward(
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  return base_->clamp_output(
      LoraLinear::adapted_forward(base_->clamp_input(input), terms));
}

at::Tensor LoraClippableLinear::weight_input(const at::Tensor& input) const {
  return LoraLinear::weight_input(base_->clamp_input(input));
}

} // namespace torchlora
