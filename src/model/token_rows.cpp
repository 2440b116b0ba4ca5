#include <algorithm>

#include <torchlora/config/targets.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/pretrained.h>

#include "model/inject.h"
#include "model/ties.h"
#include "model/token_rows.h"
#include "nn/weight_member.h"

namespace torchlora {
namespace {

constexpr auto kMessage = "[trainable_token_indices] \"";

/// Undefined for a layer that cannot have rows replaced.
Tensor weight_of(const Module& layer) {
  return dynamic_cast<const nn::EmbeddingImpl*>(&layer) ||
          dynamic_cast<const nn::LinearImpl*>(&layer)
      ? *nn::weight_member(layer)
      : Tensor();
}

bool is_table(const Module& layer) {
  return dynamic_cast<const nn::EmbeddingImpl*>(&layer) != nullptr;
}

template <class Target>
bool is_redirected_to(const Module& layer) {
  const auto* redirectable = dynamic_cast<const nn::Redirectable*>(&layer);
  return redirectable &&
      dynamic_cast<const Target*>(redirectable->redirect_target());
}

/// The layers that the configuration names, tables first.
std::vector<TokenTarget> named_layers(
    Module& model,
    const TrainableTokenIndices& config,
    const std::vector<TargetSite>& sites) {
  auto entries =
      config.is_list() ? TrainableTokenIndices::ByModule() : config.by_module();
  if (config.is_list()) {
    const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model);
    entries.emplace_back(
        pretrained ? pretrained->input_embeddings() : "embed_tokens",
        config.list());
  }
  std::vector<TokenTarget> layers;
  for (const auto& [entry, indices] : entries) {
    const auto before = layers.size();
    for (const auto& site : sites) {
      if (site.kind == TargetSite::kParameter ||
          !names_module(entry, site.name)) {
        continue;
      }
      TORCH_CHECK_VALUE(
          !site.layer,
          kMessage,
          site.name,
          "\" is adapted by LoRA too; it must be one or the other");
      TORCH_CHECK_VALUE(
          site.kind != TargetSite::kPart && weight_of(*site.module).defined(),
          kMessage,
          site.name,
          "\" must be a torchlora::nn::Embedding or torchlora::nn::Linear, "
          "found ",
          site.module->name());
      layers.push_back({site.name, site.module, indices});
    }
    TORCH_CHECK_VALUE(
        layers.size() > before,
        "[trainable_token_indices] Target modules {'",
        entry,
        "'} not found in the base model. Please check the target modules and "
        "try again.");
    TORCH_CHECK_VALUE(
        !config.is_list() || layers.size() == 1,
        "[trainable_token_indices] \"",
        entry,
        "\" names several modules of the model; give the one that is meant, as "
        "{{\"module\", {indices}}}");
  }
  std::ranges::stable_partition(
      layers, [](const auto& target) { return is_table(*target.layer); });
  return layers;
}

/// Fills in who follows the target. False if it follows one of `before`.
bool resolve_ties(
    const Ties& ties,
    const std::vector<TokenTarget>& before,
    TokenTarget& target) {
  const auto weight = weight_of(*target.layer);
  for (const auto& other : before) {
    if (overlap(weight_of(*other.layer), weight)) {
      TORCH_CHECK_VALUE(
          other.indices == target.indices,
          kMessage,
          target.name,
          "\" is tied to \"",
          other.name,
          "\" and must have the same indices");
      return false;
    }
  }
  for (const auto& tie : ties.of(target.layer.get(), weight)) {
    if (!tie.module) { // The head is asked when the rows are there.
      continue;
    }
    const auto found = weight_of(*tie.module);
    TORCH_CHECK_VALUE(
        found.defined() && found.sizes() == weight.sizes() &&
            found.strides() == weight.strides() &&
            found.const_data_ptr() == weight.const_data_ptr(),
        kMessage,
        target.name,
        "\" is tied to \"",
        tie.name,
        "\", which cannot follow: it must be the whole weight of a "
        "torchlora::nn::Embedding or torchlora::nn::Linear");
    TORCH_CHECK_VALUE(
        !tokens_of(*tie.module) &&
            (is_table(*target.layer) || !is_table(*tie.module)),
        kMessage,
        target.name,
        "\" is tied to \"",
        tie.name,
        "\", which is the one to name");
    const auto shared = tie.module->shared_from_this();
    if (std::ranges::find(target.tied, shared) == target.tied.end()) {
      target.tied.push_back(shared);
    }
  }
  return true;
}

/// A head that computes with the weight must compute with the rows.
void check_head(
    Module& model,
    TrainableTokens& tokens,
    const TokenTarget& target,
    const std::string& adapter_name) {
  const auto* causal = dynamic_cast<const nn::CausalLM*>(&model);
  if (!causal || !overlap(causal->lm_head().weight, tokens.weight())) {
    return;
  }
  tokens.set_adapter({adapter_name}, /*inference_mode=*/true);
  TORCH_CHECK_VALUE(
      causal->lm_head().replaced_rows,
      kMessage,
      target.name,
      "\" is the weight of the model's output head too, which does not follow: "
      "its lm_head() must return nn::LmHead::of(layer)");
  tokens.set_adapter({});
}

} // namespace

std::vector<int64_t> TokenTarget::sizes() const {
  return {static_cast<int64_t>(indices.size()), weight_of(*layer).size(1)};
}

std::vector<std::pair<std::string, std::shared_ptr<TrainableTokens>>>
token_adapters(Module& model) {
  std::vector<std::pair<std::string, std::shared_ptr<TrainableTokens>>> result;
  for (const auto& item : model.named_modules("", /*include_self=*/false)) {
    const auto tokens =
        std::dynamic_pointer_cast<TrainableTokens>(item.value());
    const auto is_it = [&](const auto& other) {
      return other.second == tokens;
    };
    if (tokens && std::ranges::none_of(result, is_it)) {
      const auto& name = item.key();
      result.emplace_back(name.substr(0, name.rfind('.')), tokens);
    }
  }
  return result;
}

std::shared_ptr<TrainableTokens> tokens_of(const Module& layer) {
  const auto children = layer.named_children();
  const auto* child = children.find(TrainableTokens::kName);
  return child ? std::dynamic_pointer_cast<TrainableTokens>(*child) : nullptr;
}

std::vector<TokenTarget> find_token_targets(
    const InjectionPlan& plan,
    const std::vector<TargetSite>& sites) {
  std::vector<TokenTarget> targets;
  if (plan.config.trainable_token_indices().is_none()) {
    return targets;
  }
  const Ties ties(*plan.model);
  for (auto& target : named_layers(
           *plan.model, plan.config.trainable_token_indices(), sites)) {
    if (!resolve_ties(ties, targets, target)) {
      continue;
    }
    auto layers = target.tied;
    layers.push_back(target.layer);
    for (const auto& layer : layers) {
      const bool is_target = std::ranges::any_of(
          plan.targets,
          [&](const auto& other) { return other.site.module == layer; });
      TORCH_CHECK_VALUE(
          !is_target && !is_redirected_to<LoraLayer>(*layer),
          kMessage,
          target.name,
          "\" (or a layer that is tied to it) is adapted by LoRA too; it must "
          "be one or the other");
    }
    for (const auto& saved : plan.saved) {
      TORCH_CHECK_VALUE(
          !overlap(saved.tensor, weight_of(*target.layer)),
          kMessage,
          target.name,
          "\" is in modules_to_save too: The embedding layer is already marked "
          "to be trained fully");
    }
    targets.push_back(std::move(target));
  }
  return targets;
}

void check_targets_have_no_tokens(const InjectionPlan& plan) {
  for (const auto& target : plan.targets) {
    TORCH_CHECK_VALUE(
        !is_redirected_to<nn::RowReplacer>(*target.site.module),
        "[get_peft_model] \"",
        target.site.name,
        "\" computes with rows by trainable_token_indices of another adapter "
        "and cannot be adapted by LoRA");
  }
}

void check_tables_are_base(
    const SavedModules& versions,
    const InjectionPlan& plan) {
  for (const auto& target : plan.tokens) {
    TORCH_CHECK_VALUE(
        !versions.holds(weight_of(*target.layer)),
        kMessage,
        target.name,
        "\" has another version by another adapter (modules_to_save, or a "
        "table in its file)");
  }
}

void inject_tokens(const InjectionPlan& plan, const std::string& adapter_name) {
  const bool autocast_adapter_dtype = plan.options.autocast_adapter_dtype();
  for (const auto& target : plan.tokens) {
    auto tokens = tokens_of(*target.layer);
    if (tokens) {
      tokens->add_adapter(adapter_name, target.indices, autocast_adapter_dtype);
      continue;
    }
    tokens = std::make_shared<TrainableTokens>(target.layer, target.name);
    tokens->add_adapter(adapter_name, target.indices, autocast_adapter_dtype);
    target.layer->register_module(TrainableTokens::kName, tokens);
    tokens->bind(target.layer);
    for (const auto& layer : target.tied) {
      tokens->bind(layer);
    }
    check_head(*plan.model, *tokens, target, adapter_name);
  }
}

void remove_tokens(Module& model, const std::string& adapter_name) {
  for (const auto& [name, tokens] : token_adapters(model)) {
    tokens->delete_adapter(adapter_name);
  }
  remove_empty_token_rows(model);
}

void remove_empty_token_rows(Module& model) {
  for (const auto& [name, tokens] : token_adapters(model)) {
    if (tokens->adapters().empty()) {
      tokens->unload();
    }
  }
}

} // namespace torchlora
