#include <algorithm>
#include <unordered_set>

#include <torchlora/nn/pretrained.h>

#include "model/ties.h"
#include "nn/weight_member.h"

namespace torchlora {

Ties::Ties(Module& model) {
  for (const auto& item : model.named_modules("", /*include_self=*/true)) {
    const auto prefix = item.key().empty() ? "" : item.key() + ".";
    auto* module = item.value().get();
    const auto add = [&](const std::string& key, const Tensor& tensor) {
      owners_.push_back({prefix + key, tensor, module});
    };
    for (const auto& parameter : module->named_parameters(/*recurse=*/false)) {
      add(parameter.key(), parameter.value());
    }
    for (const auto& buffer : module->named_buffers(/*recurse=*/false)) {
      add(buffer.key(), buffer.value());
    }
    const auto* layer = dynamic_cast<LoraLayer*>(module);
    const auto type = layer ? nullptr : LoraRegistry::global().find(*module);
    if (layer || type) {
      const auto base =
          layer ? layer->base_weight() : type->base_weight(*module);
      // A type may adapt a layer inside of it, which owns the tensors.
      const auto own = module->parameters();
      const auto add_assigned = [&](const char* key, const Tensor& tensor) {
        if (std::ranges::none_of(
                own, [&](const auto& p) { return p.is_same(tensor); })) {
          add(key, tensor);
        }
      };
      add_assigned("weight", base.weight());
      add_assigned("bias", base.bias());
    }
  }
  if (auto* causal = dynamic_cast<nn::CausalLM*>(&model)) {
    owners_.push_back(
        {"the model's output head", causal->lm_head().weight, nullptr});
  }
}

std::vector<Tie> Ties::of(const Module* module, const Tensor& tensor) const {
  // Compared by identity: a layer that is registered under two names is one
  // layer.
  std::unordered_set<const Module*> own;
  if (module) {
    for (const auto& inner : module->modules()) {
      own.insert(inner.get());
    }
  }
  std::vector<Tie> ties;
  for (const auto& owner : owners_) {
    if (!own.contains(owner.module) && overlap(owner.tensor, tensor)) {
      ties.push_back({owner.name, owner.tensor.is_same(tensor), owner.module});
    }
  }
  return ties;
}

std::optional<Tie> Ties::first_of(const Module* module, const Tensor& tensor)
    const {
  const auto ties = of(module, tensor);
  return ties.empty() ? std::nullopt : std::optional(ties.front());
}

const Tensor* assigned_weight(Module& module) {
  const auto* weight = nn::weight_member(module);
  const auto registered = module.named_parameters(/*recurse=*/false);
  const auto* parameter = registered.find("weight");
  return weight && parameter && !weight->is_same(*parameter) ? weight : nullptr;
}

void check_not_tied(
    Module& model,
    const std::vector<WrittenTensor>& written,
    const std::string& change) {
  const Ties all(model);
  for (const auto& item : written) {
    const auto& site = item.site;
    const auto ties = all.of(
        site.layer ? site.layer.get() : site.module.get(), item.tensor());
    TORCH_CHECK_VALUE(
        ties.empty(),
        "[PeftModel] the ",
        item.is_bias ? "bias" : "weight",
        " of \"",
        site.name,
        "\" is tied to \"",
        ties.empty() ? "" : ties.front().name,
        "\", which ",
        change,
        " would change too; give one of them a copy of its own first: before "
        "it is adapted, put a new layer in its place "
        "(Module::replace_module) and copy the values");
  }
}

} // namespace torchlora
