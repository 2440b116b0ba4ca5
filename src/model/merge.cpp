#include <torchlora/model.h>

#include <algorithm>
#include <optional>

#include <c10/util/Exception.h>

#include "config/names.h"
#include "model/merge.h"
#include "model/state.h"
#include "model/ties.h"
#include "model/token_rows.h"
#include "model/untie.h"

namespace torchlora {
namespace {

/// Puts the base layers back into the tree, out of nested ones too.
void remove_layers(torch::nn::Module& model) {
  for (const auto& site : lora_sites(model)) {
    remove_layer(site);
  }
}

std::vector<LoraLayer*> raw(const std::vector<TargetSite>& sites) {
  std::vector<LoraLayer*> layers;
  for (const auto& site : sites) {
    layers.push_back(site.layer.get());
  }
  return layers;
}

/// What a merge of these adapters (empty: the active ones) writes to.
std::vector<WrittenTensor> written_by_merge(
    torch::nn::Module& model,
    const std::vector<std::string>& adapter_names) {
  std::vector<WrittenTensor> written;
  for (const auto& site : lora_sites(model)) {
    const auto names = site.layer->not_merged(adapter_names);
    if (!names.empty()) {
      written.push_back({site});
    }
    const bool writes_bias = std::ranges::any_of(names, [&](const auto& name) {
      return site.layer->find_adapter(name)->lora_B->bias.defined();
    });
    if (writes_bias && site.base_weight().bias().defined()) {
      written.push_back({site, /*is_bias=*/true});
    }
  }
  return written;
}

/// All or nothing.
void merge_written(
    PeftModel::State& state,
    const std::vector<WrittenTensor>& written,
    bool safe_merge,
    const std::vector<std::string>& adapter_names,
    bool untie_weights) {
  std::optional<Untied> untied;
  if (untie_weights) {
    untied.emplace(*state.model, written);
  } else {
    TORCH_CHECK_VALUE(
        state.layer_replication.empty(),
        "[PeftModel] Cannot merge LORA layers when base model layers are "
        "replicated: they share their weights; merge with untie_weights to "
        "give each its own");
    check_not_tied(*state.model, written, "a merge");
  }
  merge_layers(raw(lora_sites(*state.model)), safe_merge, adapter_names);
  if (untied) {
    untied->keep();
  }
}

} // namespace

void warn_of_residual(
    const std::vector<TargetSite>& sites,
    const std::function<bool(const std::string&)>& is_lost,
    const char* function) {
  for (const auto& site : sites) {
    for (const auto& adapter : site.layer->adapters()) {
      if (adapter.changed_base && is_lost(adapter.name) &&
          !contains(site.layer->merged_adapters(), adapter.name)) {
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

void PeftModel::merge_adapter(
    bool safe_merge,
    const std::vector<std::string>& adapter_names,
    bool untie_weights) {
  for (const auto& name : adapter_names) {
    state_->at(name);
    TORCH_CHECK_VALUE(
        !state_->versions.has(name) || contains(state_->active, name),
        "[merge_adapter] adapter ",
        name,
        " has modules_to_save or biases of its own; make it active first");
  }
  const auto written = written_by_merge(*state_->model, adapter_names);
  for (const auto& item : written) {
    TORCH_CHECK_VALUE(
        !state_->versions.holds(item.tensor()),
        "[merge_adapter] \"",
        item.site.name,
        "\" computes with a weight or a bias that is an adapter's own; only "
        "merge_and_unload can merge into it");
  }
  const auto tokens = token_adapters(*state_->model);
  for (const auto& [name, rows] : tokens) {
    TORCH_CHECK_VALUE(
        !state_->versions.holds(rows->weight()),
        "[merge_adapter] the table of \"",
        name,
        "\" is an adapter's own; only merge_and_unload can merge into it");
    rows->check_mergeable(adapter_names, safe_merge);
  }
  merge_written(*state_, written, safe_merge, adapter_names, untie_weights);
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
    any |= !rows->merged_adapters().empty();
    rows->unmerge();
  }
  if (!any) {
    TORCH_WARN("Already unmerged. Nothing to do.");
  }
}

void PeftModel::merge_and_unload(
    bool safe_merge,
    const std::vector<std::string>& adapter_names,
    bool untie_weights) {
  auto& versions = state_->versions;
  for (const auto& name : adapter_names) {
    state_->at(name);
  }
  versions.check_active(adapter_names);
  const auto names = adapter_names.empty() ? state_->active : adapter_names;
  const auto tokens = token_adapters(*state_->model);
  for (const auto& [name, rows] : tokens) {
    rows->check_mergeable(names, safe_merge);
  }
  versions.select(names, state_->trainable);
  // Nothing to do, and nothing to warn of, where every update is merged.
  if (const auto written = written_by_merge(*state_->model, names);
      !written.empty()) {
    try {
      merge_written(*state_, written, safe_merge, names, untie_weights);
    } catch (...) {
      state_->select_versions();
      throw;
    }
  }
  for (const auto& [name, rows] : tokens) {
    rows->merge(names);
  }
  versions.select(names, /*trainable=*/false);
  versions.release();
  unload();
}

void PeftModel::unload() {
  state_->versions.select({}, /*trainable=*/false);
  state_->versions.release();
  warn_of_residual(
      lora_sites(*state_->model), [](const auto&) { return true; }, "unload");
  remove_layers(*state_->model);
  remove_tokens(*state_->model);
  state_->adapters.clear();
  state_->active.clear();
}

} // namespace torchlora
