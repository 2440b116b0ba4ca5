#include <torchlora/model.h>

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/detail/names.h>

#include "model/merge.h"
#include "model/state.h"
#include "model/ties.h"
#include "model/token_rows.h"

namespace torchlora {
namespace {

/// What a merge of these adapters (empty: the active ones) writes to.
std::vector<WrittenTensor> written_by_merge(
    Module& model,
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

/// Warns, as PEFT does, of adapters that are merged already.
void warn_of_merged(
    const std::vector<TunerSite>& sites,
    const std::vector<std::string>& adapter_names) {
  const TunerLayer* merged = nullptr;
  std::vector<std::string> additional;
  for (const auto& site : sites) {
    const auto* layer = dynamic_cast<LoraLayer*>(site.layer.get());
    if (layer && layer->merged()) {
      merged = layer;
      for (auto& name : layer->not_merged(adapter_names)) {
        if (!detail::contains(additional, name)) {
          additional.push_back(std::move(name));
        }
      }
    }
  }
  if (merged && additional.empty()) {
    TORCH_WARN("All adapters are already merged, nothing to do.");
  } else if (merged) {
    TORCH_WARN(fmt::format(
        "Already following adapters were merged {}. You are now additionally "
        "merging {}.",
        fmt::join(merged->merged_adapters(), ","),
        fmt::join(additional, ",")));
  }
}

/// Merges into what the model's tensors are now: checks all first, then writes.
void merge_all(
    const PeftModel& model,
    const std::vector<WrittenTensor>& written,
    const MergeOptions& options,
    bool warns = true) {
  const auto& state = StateAccess::of(model);
  TORCH_CHECK_VALUE(
      state.layer_replication.empty() || written.empty(),
      "[PeftModel] Cannot merge LORA layers when base model layers are "
      "replicated: they share their weights");
  check_not_tied(*state.model, written, "a merge");
  const auto sites = tuner_layers(*state.model);
  for (const auto& site : sites) {
    site.layer->check_mergeable(options.adapter_names(), options.safe_merge());
  }
  if (warns) {
    warn_of_merged(sites, options.adapter_names());
  }
  for (const auto& site : sites) {
    site.layer->merge(options.adapter_names());
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
          !site.layer->states().is_merged(adapter.name)) {
        TORCH_WARN(
            "[",
            function,
            "] adapter ",
            adapter.name,
            " changed the base weights when it was made, and they stay "
            "changed; merge_and_unload keeps its update too");
        return;
      }
    }
  }
}

void PeftModel::merge_adapter(const MergeOptions& options) {
  for (const auto& name : options.adapter_names()) {
    state_->adapters.at(name);
  }
  state_->saved->check_mergeable(options.adapter_names(), options.safe_merge());
  const auto written =
      written_by_merge(*state_->model, options.adapter_names());
  for (const auto& item : written) {
    TORCH_CHECK_VALUE(
        !state_->saved->holds(item.tensor()),
        "[merge_adapter] \"",
        item.site.name,
        "\" computes with a weight or a bias that is an adapter's own; only "
        "merge_and_unload can merge into it");
  }
  for (const auto& [name, rows] : token_adapters(*state_->model)) {
    TORCH_CHECK_VALUE(
        !state_->saved->holds(rows->weight()),
        "[merge_adapter] the table of \"",
        name,
        "\" is an adapter's own; only merge_and_unload can merge into it");
  }
  merge_all(*this, written, options);
}

void PeftModel::unmerge_adapter() {
  bool any = false;
  for (const auto& site : state_->tuner_layers()) {
    any |= site.layer->merged();
    site.layer->unmerge();
  }
  if (!any) {
    TORCH_WARN("Already unmerged. Nothing to do.");
  }
}

void PeftModel::merge_and_unload(const MergeOptions& options) {
  auto& saved = *state_->saved;
  for (const auto& name : options.adapter_names()) {
    state_->adapters.at(name);
  }
  saved.check_set_adapter(options.adapter_names());
  const auto names = options.adapter_names().empty() ? active_adapters()
                                                     : options.adapter_names();
  saved.show(names);
  try {
    const auto written = written_by_merge(*state_->model, names);
    merge_all(
        *this,
        written,
        MergeOptions(options).adapter_names(names),
        /*warns=*/!written.empty());
  } catch (...) {
    saved.show();
    throw;
  }
  saved.keep(names);
  unload();
}

void PeftModel::unload() {
  const auto sites = lora_sites(*state_->model);
  warn_of_residual(sites, [](const auto&) { return true; }, "unload");
  for (const auto& site : sites) {
    remove_layer(site);
  }
  for (const auto& site : state_->own_layers()) {
    site.layer->unload();
  }
  state_->adapters = {};
}

} // namespace torchlora
