#include <torchlora/model.h>

#include <algorithm>
#include <iostream>
#include <set>

#include <c10/core/InferenceMode.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/nn/inspect.h>
#include <torchlora/nn/pretrained.h>

#include "model/function_name.h"
#include "model/inject.h"
#include "model/merge.h"
#include "model/replicate.h"
#include "model/state.h"

namespace torchlora {
namespace {

/// 1234567 → "1,234,567".
std::string with_commas(int64_t value) {
  auto text = std::to_string(value);
  for (auto i = static_cast<int64_t>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(static_cast<size_t>(i), ",");
  }
  return text;
}

/// ValueError for a parameter that the injection could not freeze.
void check_can_be_frozen(const Module& model) {
  for (const auto& item : model.named_parameters()) {
    TORCH_CHECK_VALUE(
        item.value().is_leaf() || !item.value().requires_grad(),
        "[get_peft_model] the parameter \"",
        item.key(),
        "\" is computed from another tensor and cannot be frozen; register a "
        "detached one");
  }
}

/// Freezes a model's parameters until it is destroyed, or for good.
class Freeze {
 public:
  explicit Freeze(const Module& model) {
    check_can_be_frozen(model);
    for (const auto& parameter : model.parameters()) {
      if (parameter.requires_grad()) {
        parameter.set_requires_grad(false);
        frozen_.push_back(parameter);
      }
    }
  }
  ~Freeze() {
    for (const auto& parameter : frozen_) {
      // Only code in InferenceMode may do so to an inference tensor.
      const c10::InferenceMode mode(parameter.is_inference());
      parameter.set_requires_grad(true);
    }
  }
  Freeze(const Freeze&) = delete;
  Freeze& operator=(const Freeze&) = delete;

  void keep() {
    frozen_.clear();
  }

 private:
  std::vector<Tensor> frozen_;
};

} // namespace

PeftModel adapt(
    const char* function,
    Module& model,
    const std::string& adapter_name,
    const std::function<void(SavedModules&, const Finish& finish)>&
        inject_first) {
  const auto shared = model.weak_from_this().lock();
  TORCH_CHECK_VALUE(
      shared,
      "[",
      function,
      "] the model must be owned by a shared_ptr, as every "
      "module holder's is");
  const auto adapted = lora_sites(model);
  TORCH_CHECK_VALUE(
      adapted.empty(),
      "[",
      function,
      "] module \"",
      adapted.empty() ? "" : adapted.front().name,
      "\" is adapted already; use add_adapter of its PeftModel, or unload it");
  const auto state = std::make_shared<PeftState>();
  state->model = shared;
  auto peft = StateAccess::make(state);
  const auto finish = [&](const InjectionPlan& plan) {
    state->layer_replication = plan.config.layer_replication();
    auto& config = state->adapters.add({adapter_name, plan.config}).config;
    if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
      config.base_model_name_or_path(pretrained->name_or_path());
    }
    peft.set_adapter({adapter_name}, config.inference_mode());
    state->warn_of_running_statistics(plan, function);
  };
  in_function(function, [&] {
    Freeze freeze(model);
    inject_first(*state->saved, finish);
    freeze.keep();
  });
  return peft;
}

PeftModel get_peft_model(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    const InjectOptions& options) {
  auto peft = adapt(
      "get_peft_model",
      model,
      adapter_name,
      [&](SavedModules& saved, const Finish& finish) {
        Replication replication(model, config, options);
        const auto plan = plan_injection(model, config, adapter_name, options);
        inject(plan, adapter_name, saved, [&](const Layers&) { finish(plan); });
        replication.keep();
      });
  StateAccess::of(peft).autocast_adapter_dtype =
      options.autocast_adapter_dtype();
  return peft;
}

std::vector<std::shared_ptr<LoraLayer>> inject_adapter(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    const InjectOptions& options) {
  return in_function("inject_adapter", [&] {
    Replication replication(model, config, options);
    const auto plan = plan_injection(model, config, adapter_name, options);
    TORCH_CHECK_VALUE(
        plan.saved.empty(),
        "[inject_adapter] modules_to_save and bias need get_peft_model, whose "
        "handle keeps the base model's own tensors");
    std::optional<Freeze> freeze;
    if (lora_sites(model).empty()) {
      freeze.emplace(model);
    }
    SavedModules none;
    auto layers = inject(plan, adapter_name, none, [&](const Layers&) {
      for (const auto& site : tuner_layers(model)) {
        if (site.layer->has(adapter_name)) {
          site.layer->set_adapter({adapter_name}, config.inference_mode());
        }
      }
      warn_of_running_statistics(plan, "inject_adapter");
    });
    if (freeze) {
      freeze->keep();
    }
    replication.keep();
    return layers;
  });
}

Module& PeftModel::base_model() const {
  return *state_->model;
}

std::vector<std::string> PeftModel::adapter_names() const {
  return state_->adapters.names();
}

const std::vector<std::string>& PeftModel::active_adapters() const {
  return state_->adapters.states().active;
}

const LoraConfig& PeftModel::peft_config(
    const std::string& adapter_name) const {
  return state_->adapters.at(adapter_name, "peft_config").config;
}

std::vector<std::pair<std::string, std::shared_ptr<LoraLayer>>>
PeftModel::layers() const {
  std::vector<std::pair<std::string, std::shared_ptr<LoraLayer>>> layers;
  for (const auto& site : lora_sites(*state_->model)) {
    layers.emplace_back(site.name, site.layer);
  }
  return layers;
}

void PeftModel::add_adapter(
    const std::string& adapter_name,
    const LoraConfig& config,
    const InjectOptions& options) {
  TORCH_CHECK_VALUE(
      !state_->adapters.find(adapter_name),
      "[add_adapter] Adapter with name '",
      adapter_name,
      "' already exists.");
  const DisableAdapterGuard base(*this);
  in_function("add_adapter", [&] {
    auto plan = plan_injection(
        *state_->model,
        for_replicated(config, state_->layer_replication),
        adapter_name,
        InjectOptions(options).autocast_adapter_dtype(
            options.autocast_adapter_dtype() &&
            state_->autocast_adapter_dtype));
    check_is_base(*state_->saved, plan);
    plan.config.base_model_name_or_path(
        state_->adapters.all().empty()
            ? config.base_model_name_or_path()
            : state_->adapters.all().front().config.base_model_name_or_path());
    inject(plan, adapter_name, *state_->saved, [&](const auto&) {
      state_->warn_of_running_statistics(plan, "add_adapter");
    });
    state_->adapters.add({adapter_name, std::move(plan.config)});
  });
}

void PeftModel::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  state_->check_not_empty("set_adapter");
  for (const auto& name : adapter_names) {
    state_->adapters.at(name, "set_adapter");
  }
  const auto sites = state_->tuner_layers();
  for (const auto& site : sites) {
    site.layer->check_set_adapter(adapter_names);
  }
  if (std::ranges::any_of(
          sites, [](const auto& site) { return site.layer->merged(); })) {
    TORCH_WARN(
        "Adapter cannot be set when the model is merged. Unmerging the model "
        "first.");
    unmerge_adapter();
  }
  for (const auto& site : sites) {
    site.layer->set_adapter(adapter_names, inference_mode);
  }
  state_->adapters.set_active(adapter_names);
}

void PeftModel::set_requires_grad(
    const std::vector<std::string>& adapter_names,
    bool requires_grad) {
  for (const auto& name : adapter_names) {
    state_->adapters.at(name, "set_requires_grad");
  }
  for (const auto& site : state_->tuner_layers()) {
    for (const auto& name : adapter_names) {
      site.layer->set_requires_grad(name, requires_grad);
    }
  }
}

void PeftModel::delete_adapter(const std::string& adapter_name) {
  state_->check_not_empty("delete_adapter");
  TORCH_CHECK_VALUE(
      state_->adapters.find(adapter_name),
      "[delete_adapter] Adapter ",
      adapter_name,
      " does not exist");
  const auto layers = state_->tuner_layers();
  for (const auto& site : layers) {
    TORCH_CHECK_VALUE(
        !site.layer->states().is_merged(adapter_name),
        "[delete_adapter] Cannot delete adapter(s) ['",
        adapter_name,
        "'] while they are merged. Please unmerge them first.");
  }
  const auto sites = lora_sites(*state_->model);
  warn_of_residual(
      sites,
      [&](const auto& name) { return name == adapter_name; },
      "delete_adapter");
  for (const auto& site : layers) {
    site.layer->delete_adapter(adapter_name);
  }
  remove_empty_token_rows(*state_->model);
  // Files tell the parameters of a module by their nesting.
  for (const auto& site : sites) {
    if (site.kind == TargetSite::kParameter && site.layer->adapters().empty()) {
      remove_layer(site);
    }
  }
  const bool was_active = state_->adapters.states().is_active(adapter_name);
  state_->adapters.remove(adapter_name);
  state_->emptied_by = "delete_adapter";
  if (was_active && active_adapters().empty() && !adapter_names().empty()) {
    const auto names = adapter_names();
    const auto& next = *std::ranges::min_element(names);
    TORCH_WARN(
        "Adapter ",
        adapter_name,
        " was active which is now deleted. Setting active adapter to ",
        next,
        ".");
    set_adapter(next);
  }
}

std::vector<Tensor> PeftModel::trainable_parameters() const {
  return nn::trainable_parameters(*state_->model);
}

std::pair<int64_t, int64_t> PeftModel::get_nb_trainable_parameters() const {
  int64_t trainable = 0, all = 0;
  // Counted by memory, which replicated layers share.
  std::set<std::pair<const void*, size_t>> seen;
  for (const auto& parameter : state_->model->parameters()) {
    const void* data = parameter.const_data_ptr();
    const void* key = data ? data : parameter.unsafeGetTensorImpl();
    if (seen.emplace(key, parameter.nbytes()).second) {
      all += parameter.numel();
      trainable += parameter.requires_grad() ? parameter.numel() : 0;
    }
  }
  return {trainable, all};
}

std::string PeftModel::trainable_parameters_line() const {
  const auto [trainable, all] = get_nb_trainable_parameters();
  return fmt::format(
      "trainable params: {} || all params: {} || trainable%: {:.4f}",
      with_commas(trainable),
      with_commas(all),
      100.0 * static_cast<double>(trainable) /
          static_cast<double>(std::max<int64_t>(all, 1)));
}

void PeftModel::print_trainable_parameters() const {
  std::cout << trainable_parameters_line() << std::endl;
}

} // namespace torchlora
