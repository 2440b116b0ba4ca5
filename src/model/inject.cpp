#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/config/targets.h>
#include <torchlora/lora/variant.h>

#include "lora/check_config.h"
#include "lora/overlay/weight_overlay.h"
#include "lora/undo.h"
#include "model/inject.h"
#include "model/targets.h"
#include "model/ties.h"
#include "text/first_few.h"

namespace torchlora {
namespace {

std::vector<std::string> both_names(const std::vector<TargetSite>& sites) {
  std::vector<std::string> names;
  for (const auto& site : sites) {
    names.push_back(site.name);
    names.push_back(site.lora_name());
  }
  return names;
}

/// The value for a module under either of its names.
double lookup(
    const PatternTable& table,
    const TargetSite& site,
    double default_value) {
  const auto value = table.find(site.name);
  return value ? *value : table.find(site.lora_name()).value_or(default_value);
}

Tensor statistics_of(
    const InjectionPlan& plan,
    const std::string& module_name) {
  const auto& statistics = plan.options.init_statistics();
  const auto found = statistics.find(module_name);
  return found == statistics.end() ? Tensor() : found->second;
}

/// A layer of two models is adapted by one of them.
void check_is_free(const TargetSite& site) {
  const auto* redirectable = dynamic_cast<nn::Redirectable*>(site.module.get());
  const bool is_taken = redirectable
      ? redirectable->redirect_target() != nullptr
      : WeightOverlay::is_installed_on(*site.module);
  TORCH_CHECK_VALUE(
      site.layer || site.kind == TargetSite::kParameter || !is_taken,
      "[get_peft_model] \"",
      site.name,
      "\" is adapted already, as a layer of another model or by "
      "inject_adapter; unload it there first");
}

/// ValueError if the plan's initializer would change a base weight that is
/// another module's or another adapter's too: before anything is decomposed.
void check_base_may_change(const InjectionPlan& plan) {
  if (!modifies_base(plan.config)) {
    return;
  }
  std::vector<WrittenTensor> changed;
  for (const auto& target : plan.targets) {
    if (target.site.layer) {
      target.site.layer->check_base_may_change(plan.config);
    }
    changed.push_back({target.site});
  }
  check_not_tied(*plan.model, changed, "the initializer");
}

/// Makes the new layers and the factors of all, aside from the model. `layers`
/// has those that are made if it throws.
void prepare(
    const InjectionPlan& plan,
    const std::string& adapter_name,
    Layers& layers) {
  for (const auto& target : plan.targets) {
    const auto& site = target.site;
    auto layer = site.layer;
    if (!layer && site.kind != TargetSite::kParameter) {
      layer = LoraRegistry::global().create(site.name, site.module);
    } else if (!layer) { // around that of the module's parameter before it
      const auto& last =
          layers.empty() ? site : plan.targets[layers.size() - 1].site;
      layer = site.type->create(
          last.kind == TargetSite::kParameter && last.module == site.module &&
                  !layers.empty()
              ? layers.back()
              : site.module,
          site.type->base_weight);
    }
    try {
      layer->prepare_adapter(
          adapter_name,
          target.r,
          target.lora_alpha,
          plan.config,
          plan.options.autocast_adapter_dtype(),
          statistics_of(plan, site.name),
          plan.is_loaded);
    } catch (c10::Error& e) {
      e.add_context("module " + site.name);
      throw;
    }
    layers.push_back(std::move(layer));
    if (const auto& progress = plan.options.init_progress()) {
      progress(layers.size(), plan.targets.size(), site.name);
    }
  }
}

} // namespace

InjectionPlan plan_injection(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    const InjectOptions& options,
    bool is_loaded) {
  check_adapter_name(adapter_name, "get_peft_model");
  check_config(config);
  const auto sites = target_sites(model);
  InjectionPlan plan;
  plan.model = &model;
  plan.config = config;
  plan.options = options;
  plan.is_loaded = is_loaded;
  plan.config.target_modules(resolve_targets(model, sites, config));
  add_task_heads(model, plan.config);

  const TargetMatcher matcher(plan.config);
  const PatternTable ranks(config.rank_pattern());
  const PatternTable alphas(config.alpha_pattern());
  std::vector<TargetSite> adapted;
  bool any_excluded = false, any_unmatched = false, with_parts = false;
  // In PEFT's order: modules first.
  const auto rank_of = [&](const TargetSite& site) {
    return static_cast<int64_t>(
        lookup(ranks, site, static_cast<double>(config.r())));
  };
  for (const auto& site : sites) {
    if (site.kind == TargetSite::kParameter) {
      continue;
    }
    if (site.kind == TargetSite::kPart) {
      if (with_parts) {
        const auto& whole = plan.targets.back();
        plan.targets.push_back({site, whole.r, whole.lora_alpha});
      }
      continue;
    }
    with_parts = false;
    const auto match = matcher.match(site.name);
    const auto peft_match = matcher.match(site.lora_name());
    if (match == TargetMatch::kExcluded ||
        peft_match == TargetMatch::kExcluded) {
      any_excluded = true;
    } else if (
        match == TargetMatch::kTargeted ||
        peft_match == TargetMatch::kTargeted) {
      if (!site.is_adaptable()) { // refuses
        LoraRegistry::global().create(site.name, site.module);
      }
      with_parts = true;
      plan.targets.push_back(
          {site, rank_of(site), lookup(alphas, site, config.lora_alpha())});
      adapted.push_back(site);
    } else {
      any_unmatched = true;
    }
  }
  for (const auto& site : targeted_parameters(model, sites, config)) {
    for (const auto& inner : adapted) {
      TORCH_CHECK_VALUE(
          inner.kind == TargetSite::kParameter ||
              !inner.name.starts_with(site.prefix()),
          "[get_peft_model] \"",
          inner.name,
          "\" is inside of the module of the parameter \"",
          site.name,
          "\"; one adapter cannot have both");
    }
    plan.targets.push_back(
        {site, rank_of(site), lookup(alphas, site, config.lora_alpha())});
    adapted.push_back(site);
  }
  check_second_names(model, plan.config, adapted);
  if (plan.targets.empty()) {
    refuse_no_match(model, sites, plan.config, any_excluded, any_unmatched);
  }

  if (config.ensure_weight_tying()) {
    const Ties ties(model);
    for (const auto& site : adapted) {
      const auto tie =
          ties.first_of(site.module.get(), site.base_weight().weight());
      TORCH_CHECK_VALUE(
          !tie,
          "[get_peft_model] ensure_weight_tying is supported for "
          "modules_to_save, not for the target \"",
          site.name,
          "\", which is tied to \"",
          tie ? tie->name : "",
          "\"");
    }
  }
  std::vector<TargetSite> layers;
  for (const auto& target : plan.targets) {
    check_is_free(target.site);
    if (target.site.kind != TargetSite::kParameter) {
      layers.push_back(target.site);
    }
  }
  plan.saved = find_saved_tensors(model, plan.config, layers, is_loaded);
  check_targets_have_no_tokens(plan);
  plan.tokens = find_token_targets(plan, sites);

  const auto names = both_names(adapted);
  if (plan.config.target_modules().is_list()) {
    auto entries = plan.config.target_modules().list();
    std::erase_if(entries, [&](const auto& entry) {
      return std::any_of(names.begin(), names.end(), [&](const auto& name) {
        return names_module(entry, name);
      });
    });
    warn_unused("target_modules", entries, "matched no adapted module");
  }
  const char* ignored =
      "keys did not match any targeted module and were ignored";
  warn_unused("rank_pattern", ranks.unused(names), ignored);
  warn_unused("alpha_pattern", alphas.unused(names), ignored);
  if (!config.exclude_modules().is_none() && !any_excluded) {
    TORCH_WARN(
        "You have passed exclude_modules=",
        repr(config.exclude_modules()),
        " but no modules were excluded. Please check that exclude_modules was "
        "set correctly.");
  }
  return plan;
}

bool warn_of_running_statistics(
    const InjectionPlan& plan,
    const char* function) {
  if (plan.config.inference_mode()) {
    return false;
  }
  std::vector<std::string> names;
  for (const auto& item : plan.model->named_modules()) {
    const auto buffers = item.value()->named_buffers(/*recurse=*/false);
    const auto* mean = buffers.find("running_mean");
    if (mean && mean->defined() &&
        std::ranges::none_of(plan.saved, [&](const SavedTensor& saved) {
          return saved.tensor.is_same(*mean);
        })) {
      names.push_back(item.key());
    }
  }
  if (!names.empty()) {
    TORCH_WARN(fmt::format(
        "[{}] a forward in training mode changes the running statistics of {}, "
        "so that the model without its adapters is not the base model any "
        "more, and they are not saved with the adapter: call eval() on them "
        "after train(), or name them in modules_to_save",
        function,
        detail::first_few(names)));
  }
  return !names.empty();
}

void check_is_base(const SavedModules& saved, const InjectionPlan& plan) {
  for (const auto& target : plan.targets) {
    TORCH_CHECK_VALUE(
        !modifies_base(plan.config) ||
            !saved.holds(target.site.base_weight().weight()),
        "[add_adapter] the new adapter would change the weight of \"",
        target.site.name,
        "\", of which another adapter has a version of its own");
  }
  check_tables_are_base(saved, plan);
}

Layers inject(
    const InjectionPlan& plan,
    const std::string& adapter_name,
    SavedModules& saved,
    const std::function<void(const Layers&)>& activate) {
  for (const auto& site : tuner_layers(*plan.model)) {
    TORCH_CHECK_VALUE(
        !site.layer->has(adapter_name),
        "[update_layer] adapter with name '",
        adapter_name,
        "' already exists in \"",
        site.name,
        "\"");
  }
  check_base_may_change(plan);
  Layers layers;
  all_or_nothing([&](Undo& undo) {
    for (size_t i = 0; i < plan.targets.size(); ++i) {
      const auto& site = plan.targets[i].site;
      undo.add("module " + site.name, [&, i] {
        if (i >= layers.size()) {
          return; // not prepared yet
        }
        layers[i]->delete_adapter(adapter_name);
        if (!site.layer) {
          layers[i]->unload();
          site.parent->replace_module(site.child_name, site.module);
        }
      });
    }
    prepare(plan, adapter_name, layers);
    undo.add("modules_to_save", [&] { saved.delete_adapter(adapter_name); });
    saved.add(adapter_name, plan.saved);
    undo.add("trainable_token_indices", [&] {
      remove_tokens(*plan.model, adapter_name);
    });
    inject_tokens(plan, adapter_name);
    for (size_t i = 0; i < layers.size(); ++i) {
      if (const auto& site = plan.targets[i].site; !site.layer) {
        site.parent->replace_module(
            site.child_name, std::static_pointer_cast<Module>(layers[i]));
        layers[i]->bind();
      }
    }
    activate(layers);
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto& layer = layers[i];
      if (layer->commit_adapter(adapter_name)) {
        undo.add("the weight of module " + plan.targets[i].site.name, [&] {
          const torch::NoGradGuard no_grad;
          layer->base_weight().add_(layer->get_delta_weight(adapter_name));
        });
      }
    }
  });
  return layers;
}

} // namespace torchlora
