#include <algorithm>
#include <set>

#include <torchlora/config/targets.h>
#include <torchlora/lora/layers/experts.h>

#include "model/targets.h"

namespace torchlora {
namespace {

bool is_targeted(const LoraConfig& config, const std::string& name) {
  const auto& entries = config.target_parameters();
  return std::any_of(entries.begin(), entries.end(), [&](const auto& entry) {
    return names_module(entry, name);
  });
}

/// A site of a parameter is created by its name.
LoraLayerType parameter_type(const std::string& parameter_name) {
  return {
      "a parameter",
      [](Module&) { return false; },
      [parameter_name](Module& module) {
        return LoraExperts::parameter_weight(module, parameter_name);
      },
      [parameter_name](
          const std::shared_ptr<Module>& base_layer,
          const BaseWeightAccessor& /*accessor*/)
          -> std::shared_ptr<LoraLayer> {
        return std::make_shared<LoraExperts>(base_layer, parameter_name);
      }};
}

/// The parameters of a module that are not a site.
void refuse_others(
    const std::string& prefix,
    Module& module,
    bool recurse,
    const std::set<std::string>& sites,
    const LoraConfig& config) {
  for (const auto& item : module.named_parameters(recurse)) {
    const auto name = prefix + item.key();
    if (!is_targeted(config, name) || sites.contains(name)) {
      continue;
    }
    TORCH_CHECK_VALUE(
        !prefix.empty(),
        "[target_parameters] targeting a parameter on the top-level module is "
        "not supported (parameter \"",
        name,
        "\")");
    TORCH_CHECK_VALUE(
        !dynamic_cast<nn::StackedExperts*>(&module),
        "[target_parameters] \"",
        name,
        "\" has ",
        item.value().dim(),
        " dimensions, only 2 and 3 are supported");
    TORCH_CHECK_VALUE(
        false,
        "[target_parameters] \"",
        name,
        "\" is a parameter of a ",
        module.name(),
        "; the module must be a torchlora::nn::StackedExperts and reach it by "
        "expert_linear, or be adapted by target_modules");
  }
}

} // namespace

void visit_parameters(
    const TargetSite& site,
    const std::shared_ptr<Module>& module,
    std::vector<TargetSite>& sites) {
  if (!dynamic_cast<nn::StackedExperts*>(site.module.get())) {
    return;
  }
  for (const auto& item : site.module->named_parameters(/*recurse=*/false)) {
    if (item.value().dim() != 2 && item.value().dim() != 3) {
      continue;
    }
    TargetSite parameter = site;
    parameter.name += "." + item.key();
    parameter.kind = TargetSite::kParameter;
    parameter.parameter = item.key();
    auto layer = std::dynamic_pointer_cast<LoraExperts>(module);
    while (layer && layer->parameter_name() != item.key()) {
      parameter.peft_name += ".base_layer";
      layer = std::dynamic_pointer_cast<LoraExperts>(layer->base_layer());
    }
    parameter.layer = layer;
    if (!layer) {
      parameter.type =
          std::make_shared<LoraLayerType>(parameter_type(item.key()));
    }
    sites.push_back(std::move(parameter));
  }
}

std::vector<TargetSite> targeted_parameters(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config) {
  auto unused = config.target_parameters();
  if (unused.empty()) {
    return {};
  }
  std::set<std::string> names;
  std::vector<TargetSite> targets;
  for (const auto& site : sites) {
    if (site.kind == TargetSite::kParameter) {
      names.insert(site.name);
      if (is_targeted(config, site.name)) {
        targets.push_back(site);
      }
    }
  }
  refuse_others("", model, /*recurse=*/false, names, config);
  for (const auto& site : sites) {
    if (site.kind == TargetSite::kModule) {
      auto& module = site.layer ? *site.layer->base_layer() : *site.module;
      const bool is_leaf = site.is_adaptable();
      refuse_others(site.name + ".", module, is_leaf, names, config);
    }
  }
  // Files tell the parameters of a module by their places in the nesting.
  for (const auto& site : sites) {
    const auto same_module = [&](const auto& target) {
      return target.module == site.module;
    };
    TORCH_CHECK_VALUE(
        site.kind != TargetSite::kParameter || !site.layer ||
            std::none_of(targets.begin(), targets.end(), same_module) ||
            is_targeted(config, site.name),
        "[target_parameters] all adapters must target the same parameters of a "
        "module; \"",
        site.name,
        "\" has an adapter and the new one leaves it out");
    TORCH_CHECK_VALUE(
        site.kind != TargetSite::kParameter || site.layer ||
            !is_targeted(config, site.name) ||
            std::none_of(
                sites.begin(),
                sites.end(),
                [&](const TargetSite& other) {
                  return other.kind == TargetSite::kParameter && other.layer &&
                      same_module(other);
                }),
        "[target_parameters] all adapters must target the same parameters of a "
        "module; \"",
        site.name,
        "\" has no adapter while others of its module have");
  }
  for (size_t i = 0; i < targets.size(); ++i) {
    auto& target = targets[i];
    for (size_t j = i + 1; !target.layer && j < targets.size() &&
         targets[j].module == target.module;
         ++j) {
      target.peft_name += ".base_layer";
    }
    std::erase_if(unused, [&](const auto& entry) {
      return names_module(entry, target.name);
    });
  }
  warn_unused("target_parameters", unused, "matched no parameter");
  return targets;
}

} // namespace torchlora
