#include <torchlora/lora/registry.h>

#include <regex>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/conv.h>
#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <torchlora/lora/layers/bilinear.h>
#include <torchlora/lora/layers/clippable_linear.h>
#include <torchlora/lora/layers/conv.h>
#include <torchlora/lora/layers/conv_transpose.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/lora/layers/embedding_bag.h>
#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/layers/multihead_attention.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/nn/clippable_linear.h>

namespace torchlora {
namespace {

/// Without the overlay a layer that does not know torchlora is refused.
void check_can_be_bound(
    const std::string& module_name,
    Module& module,
    const LoraLayerType& type) {
  if (dynamic_cast<nn::Redirectable*>(&module) || has_weight_overlay()) {
    return;
  }
  TORCH_CHECK_VALUE(
      false,
      "[get_peft_model] target module \"",
      module_name,
      "\" is a ",
      type.name,
      ", which only the weight overlay can adapt, and it is not there "
      "(torchlora/lora/overlay.h); ",
      type.has_counterpart
          ? "use the layer of the same name in torchlora::nn"
          : "derive the layer from torchlora::nn::Redirectable",
      ", or leave it out by exclude_modules");
}

} // namespace

LoraRegistry& LoraRegistry::global() {
  static LoraRegistry registry;
  return registry;
}

// The built-in layer types; the last one is tried first. Those of torch::nn
// serve the torchlora::nn layers that derive from them too.
LoraRegistry::LoraRegistry() {
  constexpr bool kHasCounterpart = true;
  const auto kernel = []<class Impl>(Impl& module) {
    return BaseWeight(module.weight, module.bias).member(module.weight);
  };
  const auto table = []<class Impl>(Impl& module) {
    return BaseWeight(module.weight, {}, "", WeightLayout::kInOut)
        .member(module.weight);
  };
  const auto transposed_kernel = []<class Impl>(Impl& module) {
    return BaseWeight(module.weight, module.bias, "", WeightLayout::kInOut)
        .member(module.weight);
  };
  add<torch::nn::LinearImpl, LoraLinear>(
      "torch::nn::Linear", kernel, kHasCounterpart);
  add<torch::nn::BilinearImpl, LoraBilinear>("torch::nn::Bilinear", kernel);
  add<torch::nn::EmbeddingImpl, LoraEmbedding>(
      "torch::nn::Embedding", table, kHasCounterpart);
  add<torch::nn::EmbeddingBagImpl, LoraEmbeddingBag>(
      "torch::nn::EmbeddingBag", table);
  add<torch::nn::Conv1dImpl, LoraConv>(
      "torch::nn::Conv1d", kernel, kHasCounterpart);
  add<torch::nn::Conv2dImpl, LoraConv>(
      "torch::nn::Conv2d", kernel, kHasCounterpart);
  add<torch::nn::Conv3dImpl, LoraConv>(
      "torch::nn::Conv3d", kernel, kHasCounterpart);
  add<torch::nn::ConvTranspose1dImpl, LoraConvTranspose>(
      "torch::nn::ConvTranspose1d", transposed_kernel);
  add<torch::nn::ConvTranspose2dImpl, LoraConvTranspose>(
      "torch::nn::ConvTranspose2d", transposed_kernel);
  add<torch::nn::ConvTranspose3dImpl, LoraConvTranspose>(
      "torch::nn::ConvTranspose3d", transposed_kernel);
  add<torch::nn::MultiheadAttentionImpl, LoraMultiheadAttention>(
      "torch::nn::MultiheadAttention",
      [](torch::nn::MultiheadAttentionImpl& module) {
        return BaseWeight(module.in_proj_weight, module.in_proj_bias)
            .member(module.in_proj_weight);
      },
      kHasCounterpart);
  add<nn::ClippableLinearImpl, LoraClippableLinear>(
      "torchlora::nn::ClippableLinear", [](nn::ClippableLinearImpl& module) {
        return BaseWeight(module.linear->weight, {}, "linear");
      });
}

void LoraRegistry::add(LoraLayerType type) {
  std::lock_guard lock(mutex_);
  types_.insert(
      types_.begin(), std::make_shared<const LoraLayerType>(std::move(type)));
}

std::shared_ptr<const LoraLayerType> LoraRegistry::find(Module& module) const {
  std::lock_guard lock(mutex_);
  for (const auto& type : types_) {
    if (type->matches(module)) {
      return type;
    }
  }
  return nullptr;
}

std::shared_ptr<LoraLayer> LoraRegistry::create(
    const std::string& module_name,
    const std::shared_ptr<Module>& module) const {
  if (const auto type = find(*module)) {
    check_can_be_bound(module_name, *module, *type);
    try {
      return type->create(module, type->base_weight);
    } catch (c10::Error& e) {
      e.add_context("module " + module_name);
      throw;
    }
  }
  const auto type = module->name();
  static const std::regex recurrent("torch::nn::(LSTM|GRU|RNN)(Impl)?");
  const auto* hint = std::regex_match(type, recurrent)
      ? "It keeps its weights in a list of its own that nothing can reach; "
        "leave it out by exclude_modules"
      : dynamic_cast<nn::Redirectable*>(module.get())
      ? "Its forward can be redirected; say where its weight is and register "
        "it with torchlora::LoraRegistry::global().add<Base, Layer>()"
      : "Derive the layer from torchlora::nn::Adaptable, or name its weight's "
        "member (BaseWeight::member), and register it with "
        "torchlora::LoraRegistry::global().add<Base, Layer>()";
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[get_peft_model] target module \"{}\" is a {}, which is not "
          "supported; supported are {}. {}.",
          module_name,
          type,
          fmt::join(names(), ", "),
          hint));
}

std::vector<std::string> LoraRegistry::names() const {
  std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& type : types_) {
    names.push_back(type->name);
  }
  return names;
}

} // namespace torchlora
