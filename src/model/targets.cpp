#include "model/targets.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/modules/linear.h>

#include <torchlora/config/targets.h>
#include <torchlora/nn/pretrained.h>

#include "text/first_few.h"
#include "text/nearest.h"

namespace torchlora {
namespace {

bool is_linear(const TargetSite& site) {
  if (site.kind == TargetSite::kParameter) {
    return false;
  }
  auto owner = site.layer ? site.layer->base_layer() : site.module;
  if (site.peft_name != site.name) {
    const auto inside = owner->named_modules("", /*include_self=*/false);
    const auto* inner =
        inside.find(site.peft_name.substr(site.name.size() + 1));
    owner = inner ? *inner : owner;
  }
  return owner->as<torch::nn::LinearImpl>() != nullptr;
}

ModuleNames all_linear(
    Module& model,
    const std::vector<TargetSite>& sites,
    const std::string& task_type) {
  std::vector<std::string> left_out{"lm_head"};
  if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
    left_out = pretrained->output_embeddings();
    const auto routers = pretrained->routers();
    left_out.insert(left_out.end(), routers.begin(), routers.end());
  } else if (task_type == "SEQ_CLS") {
    left_out.insert(left_out.end(), {"score", "classifier"});
  }
  std::vector<std::string> names;
  for (const auto& site : sites) {
    const bool is_left_out =
        std::any_of(left_out.begin(), left_out.end(), [&](const auto& entry) {
          return names_module(entry, site.name);
        });
    if (is_linear(site) && site.kind != TargetSite::kPart && !is_left_out) {
      names.push_back(site.peft_name);
    }
  }
  return names;
}

/// "" unless an entry of `target_modules` names a parameter.
std::string note_of_parameter(Module& model, const ModuleNames& targets) {
  if (targets.is_list()) {
    const auto layers = lora_sites(model);
    for (const auto& item : model.named_parameters()) {
      const auto name = name_without_layers(item.key(), layers);
      for (const auto& entry : targets.list()) {
        if (names_module(entry, name)) {
          return fmt::format(
              " '{}' names a parameter, \"{}\": target the module that has it, "
              "whose type may be registered (docs/how_to/own_layer.md).",
              entry,
              name);
        }
      }
    }
  }
  return "";
}

/// Returns the last parts of the names of all modules that can be adapted, each
/// once. Numbers, which are places in a list, do not count.
std::vector<std::string> adaptable_names(const std::vector<TargetSite>& sites) {
  std::vector<std::string> names;
  for (const auto& site : sites) {
    const auto name = site.name.substr(site.name.rfind('.') + 1);
    if (site.is_adaptable() && site.kind == TargetSite::kModule &&
        std::isalpha(static_cast<unsigned char>(name[0])) != 0 &&
        std::ranges::count(names, name) == 0) {
      names.push_back(name);
    }
  }
  return names;
}

/// Says which names the model has instead of those of `targets`.
std::string note_of_names(
    const std::vector<TargetSite>& sites,
    const ModuleNames& targets) {
  constexpr size_t kMostNames = 20;
  auto names = adaptable_names(sites);
  std::string note;
  if (targets.is_list()) {
    for (const auto& entry : targets.list()) {
      const auto last = entry.substr(entry.rfind('.') + 1);
      if (const auto near = detail::nearest(last, names); !near.empty()) {
        note += fmt::format(" Instead of '{}': '{}'?", entry, near);
      }
    }
  }
  if (!names.empty()) {
    note += fmt::format(
        " Modules that can be adapted are: {}.",
        detail::first_few(names, kMostNames));
  }
  return note;
}

} // namespace

std::string repr(const ModuleNames& names) {
  if (names.is_regex()) {
    return fmt::format("'{}'", names.regex());
  }
  return names.is_list()
      ? fmt::format("{{'{}'}}", fmt::join(names.list(), "', '"))
      : "None";
}

ModuleNames resolve_targets(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config) {
  if (config.target_modules().is_all_linear()) {
    return all_linear(model, sites, config.task_type());
  }
  if (!config.target_modules().is_none()) {
    return config.target_modules();
  }
  const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model);
  const auto defaults = pretrained
      ? default_target_modules(pretrained->model_type())
      : ModuleNames();
  if (defaults.is_none() && !config.target_parameters().empty()) {
    return std::vector<std::string>{}; // none is PEFT's default
  }
  TORCH_CHECK_VALUE(
      !defaults.is_none(),
      "[get_peft_model] Please specify `target_modules` or "
      "`target_parameters`: there is no default for ",
      pretrained ? "model_type \"" + pretrained->model_type() + "\""
                 : "a model that does not tell its model_type");
  return defaults;
}

void warn_unused(
    const char* field,
    const std::vector<std::string>& entries,
    const char* what) {
  if (!entries.empty()) {
    TORCH_WARN(fmt::format(
        "The following {} {}: ['{}']",
        field,
        what,
        fmt::join(entries, "', '")));
  }
}

void refuse_no_match(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config,
    bool any_excluded,
    bool any_unmatched) {
  std::string message;
  if (any_excluded && !any_unmatched) {
    message =
        "All modules were excluded. This is likely unintended. Check your "
        "`target_modules` and `exclude_modules` configuration.";
  } else if (
      !any_excluded && config.target_modules().is_list() &&
      config.target_modules().list().empty()) {
    message =
        "No `target_modules` passed but also no `target_parameters` found. "
        "Please check the values for these arguments.";
  } else if (!any_excluded) {
    message = fmt::format(
        "Target modules {} not found in the base model. Please check the "
        "target modules and try again.",
        repr(config.target_modules()));
    message += note_of_parameter(model, config.target_modules());
    message += note_of_names(sites, config.target_modules());
    if (!config.layers_to_transform().empty()) {
      message += fmt::format(
          " Note: You specified 'layers_to_transform': [{}].",
          fmt::join(config.layers_to_transform(), ", "));
    }
    if (!config.layers_pattern().empty()) {
      message += fmt::format(
          " You also specified 'layers_pattern': ['{}'].",
          fmt::join(config.layers_pattern(), "', '"));
    }
  } else {
    message = fmt::format(
        "No modules were targeted for adaptation. This might be caused by a "
        "combination of mismatched target modules and excluded modules. "
        "Please check your `target_modules` ({}) and `exclude_modules` ({}) "
        "configuration.",
        repr(config.target_modules()),
        repr(config.exclude_modules()));
  }
  TORCH_CHECK_VALUE(false, "[get_peft_model] ", message);
}

} // namespace torchlora
