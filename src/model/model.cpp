#include <torchlora/model.h>

#include <algorithm>
#include <iostream>
#include <set>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/nn/inspect.h>
#include <torchlora/nn/pretrained.h>

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

} // namespace

PeftModel adapt(
    Module& model,
    const std::string& adapter_name,
    const std::function<InjectionPlan()>& inject_first) {
  const auto shared = model.weak_from_this().lock();
  TORCH_CHECK_VALUE(
      shared,
      "[get_peft_model] the model must be owned by a shared_ptr, as every "
      "module holder's is");
  const auto adapted = lora_sites(model);
  TORCH_CHECK_VALUE(
      adapted.empty(),
      "[get_peft_model] module \"",
      adapted.empty() ? "" : adapted.front().name,
      "\" is adapted already; use add_adapter of its PeftModel, or unload it");
  auto state = std::make_shared<PeftState>();
  state->model = shared;
  auto plan = inject_first();
  state->saved->add(adapter_name, plan.saved);
  state->layer_replication = plan.config.layer_replication();
  state->adapters.add({adapter_name, std::move(plan.config)});
  auto& config = state->adapters.all().back().config;
  if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
    config.base_model_name_or_path(pretrained->name_or_path());
  }
  for (const auto& item : model.named_parameters()) {
    item.value().set_requires_grad(false);
  }
  auto peft = StateAccess::make(std::move(state));
  peft.set_adapter({adapter_name}, config.inference_mode());
  return peft;
}

PeftModel get_peft_model(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    const InjectOptions& options) {
  auto peft = adapt(model, adapter_name, [&] {
    Replication replication(model, config, options);
    auto plan = plan_injection(model, config, adapter_name, options);
    inject(plan, adapter_name);
    replication.keep();
    return plan;
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
  Replication replication(model, config, options);
  const auto plan = plan_injection(model, config, adapter_name, options);
  TORCH_CHECK_VALUE(
      plan.saved.empty(),
      "[inject_adapter] modules_to_save and bias need get_peft_model, whose "
      "handle keeps the base model's own tensors");
  const bool is_first = lora_sites(model).empty();
  auto layers = inject(plan, adapter_name);
  replication.keep();
  if (is_first) {
    for (auto& parameter : model.parameters()) {
      parameter.set_requires_grad(false);
    }
  }
  for (const auto& site : tuner_layers(model)) {
    if (site.layer->has(adapter_name)) {
      site.layer->set_adapter({adapter_name}, config.inference_mode());
    }
  }
  return layers;
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
  return state_->adapters.at(adapter_name).config;
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
  auto plan = plan_injection(
      *state_->model,
      for_replicated(config, state_->layer_replication),
      adapter_name,
      InjectOptions(options).autocast_adapter_dtype(
          options.autocast_adapter_dtype() && state_->autocast_adapter_dtype));
  check_is_base(*state_->saved, plan);
  inject(plan, adapter_name);
  state_->saved->add(adapter_name, plan.saved);
  plan.config.base_model_name_or_path(
      state_->adapters.all().empty()
          ? config.base_model_name_or_path()
          : state_->adapters.all().front().config.base_model_name_or_path());
  state_->adapters.add({adapter_name, std::move(plan.config)});
}

void PeftModel::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  for (const auto& name : adapter_names) {
    state_->adapters.at(name);
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

void PeftModel::delete_adapter(const std::string& adapter_name) {
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
