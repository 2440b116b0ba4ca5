#include <torchlora/lora/registry.h>

#include <regex>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/lora/clippable_linear.h>
#include <torchlora/lora/conv.h>
#include <torchlora/lora/embedding.h>
#include <torchlora/lora/linear.h>
#include <torchlora/lora/multihead_attention.h>
#include <torchlora/nn/linear.h>

namespace torchlora {
namespace {

template <class... Layers>
std::string rebind_one_of(
    nn::Convolution& module,
    const at::Tensor& from,
    const at::Tensor& to) {
  std::string name;
  const auto try_one = [&](auto* layer) {
    name = layer ? rebind_member(*layer, from, to) : name;
  };
  (try_one(dynamic_cast<Layers*>(&module)), ...);
  return name;
}

} // namespace

LoraRegistry& LoraRegistry::global() {
  static LoraRegistry registry;
  return registry;
}

// The built-in layer types; the last one is tried first.
LoraRegistry::LoraRegistry() {
  add<torch::nn::LinearImpl, LoraLinear>(
      "torchlora::nn::Linear", [](torch::nn::LinearImpl& module) {
        return BaseWeight(module.weight, module.bias);
      });
  add<torch::nn::EmbeddingImpl, LoraEmbedding>(
      "torchlora::nn::Embedding", [](torch::nn::EmbeddingImpl& module) {
        return BaseWeight(module.weight, {}, "", WeightLayout::kInOut);
      });
  add<nn::Convolution, LoraConv>(
      "torchlora::nn::Conv1d, Conv2d and Conv3d",
      [](nn::Convolution& module) {
        return BaseWeight(module.kernel(), module.kernel_bias());
      },
      rebind_one_of<nn::Conv1dImpl, nn::Conv2dImpl, nn::Conv3dImpl>);
  add<nn::MultiheadAttentionImpl, LoraMultiheadAttention>(
      "torchlora::nn::MultiheadAttention",
      [](nn::MultiheadAttentionImpl& module) {
        return BaseWeight(module.in_proj_weight, module.in_proj_bias);
      },
      [](nn::MultiheadAttentionImpl& module,
         const at::Tensor& from,
         const at::Tensor& to) -> std::string {
        const bool is_weight = module.in_proj_weight.is_same(from);
        if (!is_weight && !module.in_proj_bias.is_same(from)) {
          return "";
        }
        (is_weight ? module.in_proj_weight : module.in_proj_bias) = to;
        return is_weight ? "in_proj_weight" : "in_proj_bias";
      });
  add<nn::ClippableLinearImpl, LoraClippableLinear>(
      "torchlora::nn::ClippableLinear",
      [](nn::ClippableLinearImpl& module) {
        return BaseWeight(module.linear->weight, {}, "linear");
      },
      [](nn::ClippableLinearImpl& module,
         const at::Tensor& from,
         const at::Tensor& to) {
        return rebind_member(*module.linear, from, to);
      });
}

void LoraRegistry::add(LoraLayerType type) {
  std::lock_guard lock(mutex_);
  types_.insert(
      types_.begin(), std::make_shared<const LoraLayerType>(std::move(type)));
}

std::shared_ptr<const LoraLayerType> LoraRegistry::find(
    torch::nn::Module& module) const {
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
    const std::shared_ptr<torch::nn::Module>& module) const {
  if (const auto type = find(*module)) {
    return type->create(module, type->base_weight);
  }
  // Of these there is a torchlora::nn layer of the same name.
  static const std::regex known(
      "torch::nn::(Linear|Embedding|Conv[123]d|MultiheadAttention)(Impl)?");
  std::smatch match;
  const auto type = module->name();
  const auto hint = std::regex_match(type, match, known)
      ? fmt::format(
            "Use torchlora::nn::{} in its place, which is that layer with a "
            "forward that can be redirected",
            match[1].str())
      : "Derive the layer from torchlora::nn::Adaptable and register it with "
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
