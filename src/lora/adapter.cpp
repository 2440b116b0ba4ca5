#include <torchlora/lora/adapter.h>

#include "lora/variants/velora.h"

namespace torchlora {

LoraFactor::LoraFactor(at::Tensor value, at::Tensor bias_)
    : torch::nn::Module("torchlora::LoraFactor"),
      weight(register_parameter("weight", std::move(value))) {
  if (bias_.defined()) {
    bias = register_parameter("bias", std::move(bias_));
  }
}

std::vector<at::Tensor> LoraAdapter::tensors() const {
  std::vector<at::Tensor> result{lora_A->weight, lora_B->weight};
  if (lora_B->bias.defined()) {
    result.push_back(lora_B->bias);
  }
  if (lora_magnitude_vector) {
    result.push_back(lora_magnitude_vector->weight);
  }
  if (velora) {
    result.push_back(velora->embed);
  }
  return result;
}

std::vector<AdapterTensorSpec> adapter_tensor_specs(
    const FactorNames& names,
    const BaseWeight& base_weight,
    int64_t r,
    const LoraConfig& config) {
  const std::string suffix = names.are_modules ? ".weight" : "";
  std::vector<AdapterTensorSpec> specs{
      {names.A + suffix, base_weight.A_sizes(r)},
      {names.B + suffix, base_weight.B_sizes(r)}};
  if (config.lora_bias()) {
    specs.push_back(
        {std::string(names.B) + ".bias", {base_weight.out_features()}});
  }
  if (config.use_dora()) {
    specs.push_back({"lora_magnitude_vector", base_weight.magnitude_sizes()});
  }
  if (const auto& velora = config.velora_config()) {
    specs.push_back(
        {kVeloraEmbed,
         {velora_group_size(base_weight.in_features(), *velora)}});
  }
  return specs;
}

void AdapterDict::insert(
    const std::string& adapter_name,
    const std::shared_ptr<LoraFactor>& factor) {
  if (are_modules_) {
    register_module(adapter_name, factor);
  } else {
    register_parameter(
        adapter_name, factor->weight, factor->weight.requires_grad());
  }
}

void AdapterDict::erase(const std::string& adapter_name) {
  if (are_modules_) {
    unregister_module(adapter_name);
  } else {
    parameters_.erase(adapter_name);
  }
}

} // namespace torchlora
