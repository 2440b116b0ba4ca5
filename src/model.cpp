#include <torchlora/model.h>

#include <algorithm>
#include <iostream>
#include <locale>
#include <unordered_set>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/nn/inspect.h>
#include <torchlora/nn/pretrained.h>

#include "lora/contains.h"
#include "model_state.h"

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

/// An initialiser took the update out of the base weights: without the
/// adapter they are not the original ones.
void warn_of_residual(
    const std::vector<LoraLayer*>& layers,
    const std::function<bool(const std::string&)>& is_lost,
    const char* function) {
  for (const auto* layer : layers) {
    for (const auto& adapter : layer->adapters()) {
      if (adapter.changed_base && is_lost(adapter.name) &&
          !contains(layer->merged_adapters(), adapter.name)) {
        TORCH_WARN(
            "[",
            function,
            "] the initialiser of adapter ",
            adapter.name,
            " took its update out of the base weights, which stay without it; "
            "merge_and_unload keeps the model whole");
        return;
      }
    }
  }
}

/// Puts the base layers back into the tree, out of nested ones too.
void remove_layers(torch::nn::Module& model) {
  for (const auto& site : lora_sites(model)) {
    remove_layer(site);
  }
}

std::vector<LoraLayer*> raw(const std::vector<ModuleSite>& sites) {
  std::vector<LoraLayer*> layers;
  for (const auto& site : sites) {
    layers.push_back(site.layer.get());
  }
  return layers;
}

/// The layers that a merge of these adapters (empty: the active ones) writes
/// to.
std::vector<ModuleSite> sites_to_merge(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names) {
  auto sites = lora_sites(model);
  std::erase_if(sites, [&](const auto& site) {
    return site.layer->not_merged(adapter_names).empty();
  });
  return sites;
}

/// What an initialiser changes must be the base model's alone.
void check_is_base(
    const ParameterVersions& versions,
    const InjectionPlan& plan) {
  for (const auto& target : plan.targets) {
    TORCH_CHECK_VALUE(
        !init::changes_the_base(plan.config) ||
            !versions.holds(target.site.base_weight().weight()),
        "[add_adapter] the initialiser would change the weight of \"",
        target.site.name,
        "\", of which another adapter has a version of its own");
  }
}

} // namespace

PeftModel adapt(
    torch::nn::Module& model,
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
  auto state = std::make_shared<PeftModel::State>();
  state->model = shared;
  auto plan = inject_first();
  state->versions.add(adapter_name, plan.owned);
  state->adapters.push_back({adapter_name, std::move(plan.config)});
  auto& config = state->adapters.back().config;
  if (const auto* pretrained = dynamic_cast<nn::PretrainedModel*>(&model)) {
    config.base_model_name_or_path(pretrained->name_or_path());
  }
  for (const auto& item : model.named_parameters()) {
    item.value().set_requires_grad(false);
  }
  PeftModel peft(std::move(state));
  peft.set_adapter({adapter_name}, config.inference_mode());
  return peft;
}

PeftModel get_peft_model(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    bool autocast_adapter_dtype) {
  auto peft = adapt(model, adapter_name, [&] {
    auto plan = plan_injection(model, config, adapter_name);
    inject(plan, adapter_name, autocast_adapter_dtype);
    return plan;
  });
  peft.state().autocast_adapter_dtype = autocast_adapter_dtype;
  return peft;
}

torch::nn::Module& PeftModel::base_model() const {
  return *state_->model;
}

std::vector<std::string> PeftModel::adapter_names() const {
  std::vector<std::string> names;
  for (const auto& adapter : state_->adapters) {
    names.push_back(adapter.name);
  }
  return names;
}

const std::vector<std::string>& PeftModel::active_adapters() const {
  return state_->active;
}

const LoraConfig& PeftModel::peft_config(
    const std::string& adapter_name) const {
  return state_->at(adapter_name).config;
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
    const LoraConfig& config) {
  TORCH_CHECK_VALUE(
      !state_->find(adapter_name),
      "[add_adapter] Adapter with name '",
      adapter_name,
      "' already exists.");
  const DisableAdapterGuard base(*this);
  auto plan = plan_injection(*state_->model, config, adapter_name);
  check_is_base(state_->versions, plan);
  check_tables_are_base(state_->versions, plan);
  inject(plan, adapter_name, state_->autocast_adapter_dtype);
  state_->versions.add(adapter_name, plan.owned);
  plan.config.base_model_name_or_path(
      state_->adapters.empty()
          ? config.base_model_name_or_path()
          : state_->adapters.front().config.base_model_name_or_path());
  state_->adapters.push_back({adapter_name, std::move(plan.config)});
}

void PeftModel::set_adapter(
    const std::vector<std::string>& adapter_names,
    bool inference_mode) {
  for (const auto& name : adapter_names) {
    state_->at(name);
  }
  state_->versions.check_active(adapter_names);
  const auto tokens = token_adapters(*state_->model);
  for (const auto& [name, rows] : tokens) {
    rows->check_disjoint(adapter_names, "set_adapter");
  }
  const auto sites = lora_sites(*state_->model);
  if (std::any_of(sites.begin(), sites.end(), [](const auto& site) {
        return site.layer->merged();
      })) {
    TORCH_WARN(
        "Adapter cannot be set when the model is merged. Unmerging the model "
        "first.");
    unmerge_adapter();
  }
  for (const auto& site : sites) {
    site.layer->set_adapter(adapter_names, inference_mode);
  }
  for (const auto& [name, rows] : tokens) {
    rows->set_adapter(adapter_names, inference_mode);
  }
  state_->active = adapter_names;
  state_->trainable = !inference_mode;
  state_->select_versions();
}

void PeftModel::delete_adapter(const std::string& adapter_name) {
  TORCH_CHECK_VALUE(
      state_->find(adapter_name),
      "[delete_adapter] Adapter ",
      adapter_name,
      " does not exist");
  const auto sites = lora_sites(*state_->model);
  for (const auto& site : sites) {
    TORCH_CHECK_VALUE(
        !contains(site.layer->merged_adapters(), adapter_name),
        "[delete_adapter] Cannot delete adapter(s) ['",
        adapter_name,
        "'] while they are merged. Please unmerge them first.");
  }
  warn_of_residual(
      raw(sites),
      [&](const auto& name) { return name == adapter_name; },
      "delete_adapter");
  for (const auto& site : sites) {
    site.layer->delete_adapter(adapter_name);
  }
  // Files tell the parameters of a module by their nesting.
  for (const auto& site : sites) {
    if (!site.parameter.empty() && site.layer->adapters().empty()) {
      remove_layer(site);
    }
  }
  state_->versions.remove(adapter_name);
  delete_tokens(*state_->model, adapter_name);
  std::erase_if(state_->adapters, [&](const auto& adapter) {
    return adapter.name == adapter_name;
  });
  if (std::erase(state_->active, adapter_name) && state_->active.empty() &&
      !state_->adapters.empty()) {
    auto names = adapter_names();
    const auto& next = *std::min_element(names.begin(), names.end());
    TORCH_WARN(
        "Adapter ",
        adapter_name,
        " was active which is now deleted. Setting active adapter to ",
        next,
        ".");
    set_adapter(next);
  }
}

void PeftModel::merge_adapter(
    bool safe_merge,
    const std::vector<std::string>& adapter_names) {
  for (const auto& name : adapter_names) {
    state_->at(name);
    TORCH_CHECK_VALUE(
        !state_->versions.has(name) || contains(state_->active, name),
        "[merge_adapter] adapter ",
        name,
        " has modules_to_save or biases of its own; make it active first");
  }
  const auto written = sites_to_merge(*state_->model, adapter_names);
  for (const auto& site : written) {
    const auto base = site.layer->base_weight();
    const auto names = site.layer->not_merged(adapter_names);
    const bool writes_bias = std::ranges::any_of(names, [&](const auto& name) {
      return site.layer->find_adapter(name)->lora_B->bias.defined();
    });
    TORCH_CHECK_VALUE(
        !state_->versions.holds(base.weight()) &&
            (!writes_bias || !base.bias().defined() ||
             !state_->versions.holds(base.bias())),
        "[merge_adapter] \"",
        site.name,
        "\" computes with a weight or a bias that is an adapter's own; only "
        "merge_and_unload can merge into it");
  }
  check_not_tied(*state_->model, written, "a merge");
  const auto tokens = token_adapters(*state_->model);
  for (const auto& [name, rows] : tokens) {
    TORCH_CHECK_VALUE(
        !state_->versions.holds(rows->weight()),
        "[merge_adapter] the table of \"",
        name,
        "\" is an adapter's own; only merge_and_unload can merge into it");
    rows->check_mergeable(adapter_names, safe_merge);
  }
  merge_layers(raw(lora_sites(*state_->model)), safe_merge, adapter_names);
  for (const auto& [name, rows] : tokens) {
    rows->merge(adapter_names);
  }
}

void PeftModel::unmerge_adapter() {
  bool any = false;
  for (const auto& site : lora_sites(*state_->model)) {
    if (site.layer->merged()) {
      site.layer->unmerge();
      any = true;
    }
  }
  for (const auto& [name, rows] : token_adapters(*state_->model)) {
    rows->unmerge();
  }
  if (!any) {
    TORCH_WARN("Already unmerged. Nothing to do.");
  }
}

void PeftModel::merge_and_unload(bool safe_merge) {
  auto& versions = state_->versions;
  versions.select(state_->active, state_->trainable);
  const auto tokens = token_adapters(*state_->model);
  for (const auto& [name, rows] : tokens) {
    rows->check_mergeable(state_->active, safe_merge);
  }
  // Nothing to do, and nothing to warn of, where every update is merged.
  if (const auto written = sites_to_merge(*state_->model, {});
      !written.empty()) {
    try {
      check_not_tied(*state_->model, written, "a merge");
      merge_layers(raw(lora_sites(*state_->model)), safe_merge, state_->active);
    } catch (...) {
      state_->select_versions();
      throw;
    }
  }
  for (const auto& [name, rows] : tokens) {
    rows->merge(state_->active);
  }
  versions.select(state_->active, /*trainable=*/false);
  versions.release();
  unload();
}

void PeftModel::unload() {
  state_->versions.select({}, /*trainable=*/false);
  state_->versions.release();
  warn_of_residual(
      raw(lora_sites(*state_->model)),
      [](const auto&) { return true; },
      "unload");
  remove_layers(*state_->model);
  remove_tokens(*state_->model);
  state_->adapters.clear();
  state_->active.clear();
}

std::vector<torch::Tensor> PeftModel::trainable_parameters() const {
  return nn::trainable_parameters(*state_->model);
}

std::pair<int64_t, int64_t> PeftModel::get_nb_trainable_parameters() const {
  int64_t trainable = 0, all = 0;
  std::unordered_set<at::TensorImpl*> seen;
  for (const auto& parameter : state_->model->parameters()) {
    if (seen.insert(parameter.unsafeGetTensorImpl()).second) {
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
