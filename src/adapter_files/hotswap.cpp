#include <torchlora/adapter_files/hotswap.h>

#include <algorithm>
#include <set>

#include <torch/types.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/lora/variant.h>

#include "adapter_files/blame_file.h"
#include "adapter_files/match_tensors.h"
#include "adapter_files/out_proj.h"
#include "model/remember.h"
#include "model/replicate.h"
#include "model/requirements.h"

namespace torchlora {
namespace {

void check_compatible(const LoraConfig& now, const LoraConfig& next) {
  const auto require = [](bool equal, const char* field) {
    TORCH_CHECK_VALUE(
        equal,
        "[hotswap_adapter] Configs are incompatible: the adapters differ in ",
        field);
  };
  const auto* variant = find_variant(now);
  const auto* next_variant = find_variant(next);
  const auto* either = variant ? variant : next_variant;
  require(variant == next_variant, either ? either->name : "");
  require(now.lora_bias() == next.lora_bias(), "lora_bias");
  require(now.lora_dropout() == next.lora_dropout(), "lora_dropout");
  TORCH_CHECK_VALUE(
      !variant || variant->is_swappable,
      "[hotswap_adapter] an adapter with ",
      variant->name,
      " cannot be swapped");
  const auto& initializer = init::find_initializer(next.init_lora_weights());
  TORCH_CHECK_VALUE(
      !initializer.traits.modifies_base,
      "[hotswap_adapter] the initializer of the new adapter, ",
      next.init_lora_weights().name(),
      ", changed the base weights; save it with "
      "path_initial_model_for_weight_conversion");
}

/// Overwrites the adapter of a layer. `tensors` have the order of
/// `LoraAdapter::tensors`.
void replace(
    LoraLayer& layer,
    const std::string& adapter_name,
    const std::vector<Tensor>& tensors,
    double lora_alpha,
    bool use_rslora) {
  layer.replace_factors(
      adapter_name,
      tensors[0].flatten(1),
      tensors[1].flatten(1),
      lora_alpha,
      use_rslora);
  auto targets = layer.find_adapter(adapter_name)->tensors();
  for (size_t i = 2; i < tensors.size(); ++i) {
    targets[i].second.copy_(tensors[i]);
  }
}

/// Puts the tensors of the file into the layers of the plan, and zeros into
/// those that the file has none for.
void swap_tensors(
    const InjectionPlan& plan,
    const std::vector<TargetSite>& sites,
    const std::string& adapter_name,
    const LoraConfig& next,
    const std::vector<Tensor>& tensors) {
  std::set<const LoraLayer*> swapped;
  auto begin = tensors.begin();
  for (const auto& target : plan.targets) {
    auto& layer = *target.site.layer;
    const auto count = static_cast<std::ptrdiff_t>(
        layer.find_adapter(adapter_name)->tensors().size());
    replace(
        layer,
        adapter_name,
        {begin, begin + count},
        target.lora_alpha,
        next.use_rslora());
    begin += count;
    swapped.insert(&layer);
  }
  for (const auto& site : sites) {
    const auto* adapter = site.layer->find_adapter(adapter_name);
    if (adapter && !swapped.contains(site.layer.get())) {
      const auto base = site.layer->base_weight();
      site.layer->replace_factors(
          adapter_name,
          at::zeros(base.A_sizes(next.r())).flatten(1),
          at::zeros(base.B_sizes(next.r())).flatten(1),
          next.lora_alpha(),
          next.use_rslora());
      if (adapter->lora_B->bias.defined()) {
        adapter->lora_B->bias.zero_();
      }
    }
  }
}

} // namespace

void hotswap_adapter(
    PeftModel& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name) {
  const auto blame = [&](const auto& step) {
    return blame_file("hotswap_adapter", directory, step);
  };
  auto& state = StateAccess::of(model);
  auto& config = state.adapters.at(adapter_name, "hotswap_adapter").config;
  const auto loaded = load_adapter_config(directory);
  const auto next =
      blame([&] { return for_replicated(loaded, state.layer_replication); });
  const auto sites = lora_sites(*state.model);
  check_compatible(config, next);
  const auto demand = [&](Requirement requirement, const char* hint) {
    require(requirement, "hotswap_adapter", state, sites, adapter_name, hint);
  };
  demand(Requirement::kNoOwnTensors, ", which cannot be swapped");
  demand(
      Requirement::kUnchangedBase,
      ": they would stay without the adapter's update");
  demand(Requirement::kUnmerged, "; call unmerge_adapter first");
  auto plan = blame([&] {
    return plan_injection(
        *state.model, next, adapter_name, {}, /*is_loaded=*/true);
  });
  for (const auto& target : plan.targets) {
    TORCH_CHECK_VALUE(
        target.site.layer && target.site.layer->find_adapter(adapter_name),
        "[hotswap_adapter] Hot swapping the adapter did not succeed: the one "
        "in ",
        directory.string(),
        " adapts \"",
        target.site.name,
        "\", which ",
        adapter_name,
        " does not");
  }
  AdapterFile file;
  const auto tensors = in_function("hotswap_adapter", [&] {
    file = read_adapter_file(directory);
    read_out_proj(file, plan, /*of_peft=*/false, "hotswap_adapter");
    return match_tensors(file, *state.saved, plan);
  });
  TORCH_CHECK_VALUE(
      plan.saved.empty() && plan.tokens.empty(),
      "[hotswap_adapter] the adapter in ",
      directory.string(),
      " has tensors of the base model of its own (modules_to_save, bias, an "
      "embedding table or rows of one), which cannot be swapped");

  torch::NoGradGuard no_grad;
  all_or_nothing([&](Undo& undo) {
    for (const auto& site : sites) {
      remember_adapter(undo, site, adapter_name);
    }
    swap_tensors(plan, sites, adapter_name, next, tensors);
  });
  plan.config.inference_mode(config.inference_mode())
      .base_model_name_or_path(config.base_model_name_or_path());
  config = std::move(plan.config);
}

} // namespace torchlora
