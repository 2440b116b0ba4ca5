#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include "lora/check_config.h"
#include "lora/undo.h"
#include "model/function_name.h"
#include "model/requirements.h"

namespace torchlora {
namespace {

void check_sources(
    PeftState& state,
    const std::vector<TargetSite>& sites,
    const std::vector<std::string>& adapters,
    const std::vector<double>& weights,
    const std::string& adapter_name) {
  TORCH_CHECK_VALUE(
      !adapters.empty() && adapters.size() == weights.size(),
      "[add_weighted_adapter] needs one weight per adapter, found ",
      adapters.size(),
      " adapters and ",
      weights.size(),
      " weights");
  for (size_t i = 0; i < weights.size(); ++i) {
    TORCH_CHECK_VALUE(
        std::isfinite(weights[i]),
        "[add_weighted_adapter] the weight of adapter ",
        adapters[i],
        " must be a finite number, found ",
        weights[i]);
  }
  check_adapter_name(adapter_name, "add_weighted_adapter");
  TORCH_CHECK_VALUE(
      !state.adapters.find(adapter_name),
      "[add_weighted_adapter] Adapter with name '",
      adapter_name,
      "' already exists.");
  for (const auto& name : adapters) {
    const auto demand = [&](Requirement requirement, const char* hint) {
      require(requirement, "add_weighted_adapter", state, sites, name, hint);
    };
    demand(Requirement::kSum, "; merge it instead");
    demand(Requirement::kNoOwnTensors, ", for which there is no combination");
    demand(Requirement::kNoParameters, ", which cannot be combined");
    demand(
        Requirement::kUnchangedBase,
        "; save it with path_initial_model_for_weight_conversion and load "
        "that");
  }
}

/// Whether the layer has one of the adapters; sets `has_bias` if it has one
/// with a bias.
bool check_layer(
    const TargetSite& site,
    const std::vector<std::string>& adapters,
    const CombinationOptions& options,
    bool& has_bias) {
  int64_t first_rank = 0;
  for (const auto& name : adapters) {
    const auto* adapter = site.layer->find_adapter(name);
    if (!adapter) {
      continue;
    }
    first_rank = first_rank ? first_rank : adapter->r;
    TORCH_CHECK_VALUE(
        !options.is_by_factor() || adapter->r == first_rank,
        "[add_weighted_adapter] All adapters must have the same r value when "
        "using combination_type ",
        options.combination_type(),
        "; in \"",
        site.name,
        "\" they have not");
    TORCH_CHECK_VALUE(
        !adapter->lora_A->weight.is_complex() ||
            (options.combination_type().find("ties") == std::string::npos &&
             !options.svd_clamp()),
        "[add_weighted_adapter] the factors of adapter ",
        name,
        " in \"",
        site.name,
        "\" are complex, for which there are no ties and no svd_clamp");
    const bool has = adapter->lora_B->bias.defined();
    TORCH_CHECK_VALUE(
        !has || !options.prunes(),
        "[add_weighted_adapter] adapter ",
        name,
        " has a lora_bias, which ",
        options.combination_type(),
        " has no rule for");
    has_bias |= has;
  }
  return first_rank > 0;
}

/// Fills the new adapter of a layer.
void combine_layer(
    LoraLayer& layer,
    const std::vector<std::string>& adapters,
    const std::vector<double>& weights,
    const CombinationOptions& options,
    int64_t rank,
    const std::string& adapter_name) {
  torch::NoGradGuard no_grad;
  const auto* result = layer.find_adapter(adapter_name);
  std::vector<WeightedUpdate> updates;
  if (result->lora_B->bias.defined()) {
    result->lora_B->bias.zero_();
  }
  for (size_t i = 0; i < adapters.size(); ++i) {
    const auto* adapter = layer.find_adapter(adapters[i]);
    if (!adapter) {
      continue;
    }
    updates.push_back(
        {adapter->lora_A->weight.flatten(1),
         adapter->lora_B->weight.flatten(1),
         adapter->scaling,
         weights[i]});
    if (const auto& bias = adapter->lora_B->bias; bias.defined()) {
      result->lora_B->bias.add_(bias, adapter->scaling * weights[i]);
    }
  }
  const auto [A, B] =
      combine_updates(updates, options, rank, layer.base_weight().layout());
  result->lora_A->assign(A);
  result->lora_B->assign(B);
}

int64_t rank_of(const LoraConfig& config) {
  auto rank = config.r();
  for (const auto& [key, value] : config.rank_pattern()) {
    rank = std::max(rank, static_cast<int64_t>(value));
  }
  return rank;
}

} // namespace

void PeftModel::add_weighted_adapter(
    const std::vector<std::string>& adapters,
    const std::vector<double>& weights,
    const std::string& adapter_name,
    const CombinationOptions& given) {
  const auto all_sites = lora_sites(*state_->model);
  check_sources(*state_, all_sites, adapters, weights, adapter_name);
  // For one adapter everything else would be an approximation of it.
  auto options = given;
  if (adapters.size() == 1) {
    options.combination_type("linear");
  }
  options.validate();

  int64_t sum = 0, largest = 0;
  for (const auto& name : adapters) {
    const auto rank =
        rank_of(state_->adapters.at(name, "add_weighted_adapter").config);
    sum += rank;
    largest = std::max(largest, rank);
  }
  const auto& type = options.combination_type();
  const auto rank = type == "cat" ? sum
      : type.ends_with("svd")     ? options.svd_rank().value_or(largest)
                                  : largest;

  std::vector<TargetSite> sites;
  std::vector<std::string> targets;
  bool has_bias = false;
  for (const auto& site : all_sites) {
    if (check_layer(site, adapters, options, has_bias)) {
      if (site.kind != TargetSite::kPart) {
        targets.push_back(site.peft_name);
      }
      sites.push_back(site);
    }
  }
  auto config = state_->adapters.at(adapters[0], "add_weighted_adapter").config;
  config.r(rank)
      .lora_alpha(static_cast<double>(rank))
      .use_rslora(false)
      .lora_bias(has_bias)
      .forget_initializer()
      .forget_variant()
      .modules_to_save({})
      .bias("none")
      .rank_pattern({})
      .alpha_pattern({})
      .target_modules(targets)
      .exclude_modules({})
      .layers_to_transform({})
      .layers_pattern({});
  // NOTE: draws, as peft does, before DARE does.
  in_function(
      "add_weighted_adapter", [&] { add_adapter(adapter_name, config); });
  all_or_nothing([&](Undo& undo) {
    undo.add("the model", [&] { delete_adapter(adapter_name); });
    for (const auto& site : sites) {
      combine_layer(
          *site.layer, adapters, weights, options, rank, adapter_name);
    }
  });
}

} // namespace torchlora
