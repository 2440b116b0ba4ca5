#include "adapter_files/saved_config.h"

#include <algorithm>
#include <set>

#include <torchlora/config/targets.h>
#include <torchlora/nn/pretrained.h>

#include "model/sites.h"

namespace torchlora {

namespace {

/// Returns the names of all modules as PEFT would see them: an adapted layer
/// under the name of its base layer.
std::set<std::string> modules_of_the_checkpoint(
    Module& model,
    const std::vector<TargetSite>& sites) {
  std::set<std::string> names;
  for (const auto& site : sites) {
    if (site.kind == TargetSite::kParameter) {
      continue;
    }
    names.insert(site.name);
    names.insert(site.peft_name);
  }
  if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
    const auto unloaded = pretrained->unloaded_modules();
    names.insert(unloaded.begin(), unloaded.end());
  }
  return names;
}

bool resolves_to(
    const LoraConfig& config,
    const std::set<std::string>& modules,
    const std::set<std::string>& adapted) {
  const TargetMatcher matcher(config, TargetRules::kPeft);
  std::set<std::string> matched;
  for (const auto& name : modules) {
    if (matcher.match(name) == TargetMatch::kTargeted) {
      matched.insert(name);
    }
  }
  return matched == adapted;
}

/// NOTE: a file sorts its keys, and the first pattern that matches wins: the
/// order may change in it.
void sort_as_in_the_file(LoraConfig::Pattern& pattern) {
  const auto by_key = [](const auto& entry) { return entry.first; };
  std::ranges::stable_sort(pattern, {}, by_key);
  const auto repeated = std::ranges::unique(pattern, {}, by_key);
  pattern.erase(repeated.begin(), repeated.end());
}

bool gives(
    const LoraConfig::Pattern& pattern,
    double otherwise,
    const LoraConfig::Pattern& wanted) {
  const PatternTable table(pattern);
  for (const auto& [name, value] : wanted) {
    if (table.find(name).value_or(otherwise) != value) {
      return false;
    }
  }
  return true;
}

/// Returns the entries of `wanted` that differ from `otherwise`.
LoraConfig::Pattern exceptions(
    const LoraConfig::Pattern& wanted,
    double otherwise) {
  LoraConfig::Pattern pattern;
  for (const auto& [name, value] : wanted) {
    if (value != otherwise) {
      pattern.emplace_back("^" + name, value);
    }
  }
  return pattern;
}

/// NOTE: PEFT compares the ends of names without looking for a dot before them.
void name_token_layers_in_full(
    LoraConfig& config,
    const std::set<std::string>& modules,
    const std::vector<TargetSite>& sites) {
  const auto& given = config.trainable_token_indices();
  if (given.is_none() || given.is_list()) {
    return;
  }
  TrainableTokenIndices::ByModule written;
  for (const auto& [entry, indices] : given.by_module()) {
    std::set<std::string> ours, theirs;
    for (const auto& site : sites) {
      if (site.kind != TargetSite::kParameter &&
          names_module(entry, site.name)) {
        ours.insert(site.name);
      }
    }
    for (const auto& name : modules) {
      if (name.ends_with(entry)) {
        theirs.insert(name);
      }
    }
    if (ours == theirs) {
      written.emplace_back(entry, indices);
      continue;
    }
    for (const auto& name : ours) {
      written.emplace_back(name, indices);
    }
  }
  config.trainable_token_indices(std::move(written));
}

} // namespace

LoraConfig saved_config(Module& model, const PeftState::Adapter& adapter) {
  auto config = adapter.config;
  std::vector<std::string> names;
  LoraConfig::Pattern ranks, alphas;
  // PEFT looks at the flag in linear layers only.
  std::set<WeightLayout> layouts;
  const auto sites = target_sites(model);
  for (const auto& site : sites) {
    const auto* found =
        site.layer ? site.layer->find_adapter(adapter.name) : nullptr;
    if (found && site.kind == TargetSite::kParameter) {
      ranks.emplace_back(site.name, static_cast<double>(found->r));
      alphas.emplace_back(site.name, found->lora_alpha);
    } else if (found && site.kind != TargetSite::kPart) {
      names.push_back(site.peft_name);
      ranks.emplace_back(site.peft_name, static_cast<double>(found->r));
      alphas.emplace_back(site.peft_name, found->lora_alpha);
      const auto base = site.base_weight();
      if (base.weight().dim() == 2 && site.layer->factor_names().are_modules) {
        layouts.insert(base.layout());
      }
    }
  }
  const std::set<std::string> adapted(names.begin(), names.end());
  const auto modules = modules_of_the_checkpoint(model, sites);
  name_token_layers_in_full(config, modules, sites);
  if (!resolves_to(config, modules, adapted)) {
    config.target_modules(names);
    config.exclude_modules(ModuleNames());
    config.layers_to_transform({});
    config.layers_pattern({});
  }
  // Adapters of parameters refuse the flag.
  config.fan_in_fan_out(
      config.target_parameters().empty() &&
      layouts == std::set{WeightLayout::kInOut});
  sort_as_in_the_file(config.rank_pattern());
  sort_as_in_the_file(config.alpha_pattern());
  const auto r = static_cast<double>(config.r());
  if (!gives(config.rank_pattern(), r, ranks)) {
    config.rank_pattern(exceptions(ranks, r));
  }
  if (!gives(config.alpha_pattern(), config.lora_alpha(), alphas)) {
    config.alpha_pattern(exceptions(alphas, config.lora_alpha()));
  }
  return config;
}

} // namespace torchlora
