#include <torchlora/lora/linear.h>

#include <cmath>

#include <torch/nn/init.h>
#include <torch/types.h>

#include <torchlora/lora/clippable_linear.h>

#include "lora/low_rank.h"

namespace torchlora {

at::Tensor LoraLinear::adapted_forward(
    const at::Tensor& input,
    const std::vector<Term>& terms) {
  std::vector<LowRankTerm> low_rank;
  for (const auto& [adapter, scaling] : terms) {
    low_rank.push_back(
        {adapter->lora_A->weight,
         adapter->lora_B->weight,
         scaling,
         is_training() ? adapter->lora_dropout : 0});
  }
  const auto base = base_weight();
  return low_rank_linear(input, base.matrix(), base.bias(), low_rank);
}

at::Tensor LoraLinear::delta_weight(const std::string& adapter_name) const {
  const auto* adapter = find_adapter(adapter_name);
  TORCH_CHECK_VALUE(
      adapter, "[delta_weight] there is no adapter \"", adapter_name, "\"");
  const auto& A = adapter->lora_A->weight;
  const auto& B = adapter->lora_B->weight;
  // Half-precision products are slow on many CPUs.
  const bool upcast = A.is_cpu() && A.element_size() == 2;
  const auto dtype = upcast ? at::kFloat : A.scalar_type();
  return at::mm(B.to(dtype), A.to(dtype))
      .mul_(adapter->scaling)
      .to(A.scalar_type());
}

init::Factors LoraLinear::construct_factors(int64_t r) const {
  const auto base = base_weight();
  init::Factors factors{
      at::empty({r, base.in_features()}, at::kFloat),
      at::empty({base.out_features(), r}, at::kFloat)};
  torch::nn::init::kaiming_uniform_(factors.A, std::sqrt(5.0));
  torch::nn::init::kaiming_uniform_(factors.B, std::sqrt(5.0));
  return factors;
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

} // namespace torchlora
