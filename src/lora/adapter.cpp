#include <torchlora/lora/adapter.h>

#include <cmath>

#include <torch/types.h>

#include <torchlora/lora/variant.h>

namespace torchlora {
namespace {

std::string suffix(const FactorNames& names) {
  return names.are_modules ? ".weight" : "";
}

} // namespace

LoraFactor::LoraFactor(Tensor value, Tensor bias_)
    : Module("torchlora::LoraFactor"),
      weight(register_parameter("weight", value, value.requires_grad())) {
  if (bias_.defined()) {
    bias = register_parameter("bias", bias_, bias_.requires_grad());
  }
}

void LoraFactor::assign(const Tensor& matrix) const {
  torch::NoGradGuard no_grad;
  weight.zero_();
  weight.flatten(1)
      .narrow(0, 0, matrix.size(0))
      .narrow(1, 0, matrix.size(1))
      .copy_(matrix);
}

double LoraAdapter::default_scaling() const {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

std::pair<Tensor, Tensor> LoraAdapter::factors() const {
  return variant ? variant->factors(*this)
                 : std::pair(lora_A->weight, lora_B->weight);
}

bool LoraAdapter::is_additive() const {
  return !variant || variant->is_additive();
}

Tensor LoraAdapter::variant_tensor(const std::string& tensor_name) const {
  if (variant) {
    for (const auto& tensor : variant->tensors()) {
      if (tensor.name == tensor_name) {
        return tensor.value;
      }
    }
  }
  return {};
}

NamedTensors LoraAdapter::tensors(const FactorNames& names) const {
  NamedTensors result{
      {names.A + suffix(names), lora_A->weight},
      {names.B + suffix(names), lora_B->weight}};
  if (lora_B->bias.defined()) {
    result.emplace_back(std::string(names.B) + ".bias", lora_B->bias);
  }
  if (variant) {
    for (auto& tensor : variant->tensors()) {
      result.emplace_back(std::move(tensor.name), std::move(tensor.value));
    }
  }
  return result;
}

std::vector<AdapterTensorSpec> adapter_tensor_specs(
    const FactorNames& names,
    const BaseWeight& base_weight,
    int64_t r,
    const LoraConfig& config) {
  std::vector<AdapterTensorSpec> specs{
      {names.A + suffix(names), base_weight.A_sizes(r)},
      {names.B + suffix(names), base_weight.B_sizes(r)}};
  if (config.lora_bias()) {
    specs.push_back(
        {std::string(names.B) + ".bias", {base_weight.out_features()}});
  }
  if (const auto* variant = find_variant(config)) {
    for (auto& spec : variant->specs(base_weight, r, config)) {
      specs.push_back(std::move(spec));
    }
  }
  return specs;
}

void AdapterDict::insert(
    const std::string& adapter_name,
    const std::shared_ptr<const LoraFactor>& factor) {
  if (are_modules_) {
    register_module(adapter_name, std::const_pointer_cast<LoraFactor>(factor));
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
