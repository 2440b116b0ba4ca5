#include <torchlora/model.h>

#include <algorithm>
#include <functional>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/detail/names.h>

#include "lora/undo.h"
#include "model/function_name.h"
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

/// Names the layer of an error.
void in_layer(const TunerSite& site, const std::function<void()>& run) {
  try {
    run();
  } catch (c10::Error& e) {
    if (!site.name.empty()) {
      e.add_context("module " + site.name);
    }
    throw;
  }
}

/// Merges into what the model's tensors are now: checks all first, then writes.
void merge_all(
    const PeftModel& model,
    const std::vector<WrittenTensor>& written,
    const MergeOptions& options,
    Undo& undo,
    bool warns = true) {
  const auto& state = StateAccess::of(model);
  TORCH_CHECK_VALUE(
      state.layer_replication.empty() || written.empty(),
      "[merge_adapter] Cannot merge LORA layers when base model layers are "
      "replicated: they share their weights");
  check_not_tied(*state.model, written, "a merge");
  const auto sites = tuner_layers(*state.model);
  for (const auto& site : sites) {
    in_layer(site, [&] {
      site.layer->check_mergeable(
          options.adapter_names(), options.safe_merge());
    });
  }
  if (warns) {
    warn_of_merged(sites, options.adapter_names());
  }
  for (const auto& site : sites) {
    undo.add(
        "module " + site.name,
        [layer = site.layer, merged = site.layer->merged_adapters().size()] {
          layer->unmerge(merged);
        });
    in_layer(site, [&] { site.layer->merge(options.adapter_names()); });
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

namespace {

/// Puts the base layers back into the tree, and the base tensors that are
/// adapters' own.
void remove_layers(
    PeftState& state,
    const std::vector<TargetSite>& sites,
    const char* function) {
  warn_of_residual(sites, [](const auto&) { return true; }, function);
  for (const auto& site : sites) {
    remove_layer(site);
  }
  for (const auto& site : state.own_layers()) {
    site.layer->unload();
  }
  state.adapters = {};
  state.emptied_by = function;
}

} // namespace

void PeftModel::merge_adapter(const MergeOptions& options) {
  state_->check_not_empty("merge_adapter");
  for (const auto& name : options.adapter_names()) {
    state_->adapters.at(name, "merge_adapter");
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
  in_function("merge_adapter", [&] {
    all_or_nothing(
        [&](Undo& undo) { merge_all(*this, written, options, undo); });
  });
}

void PeftModel::unmerge_adapter() {
  state_->check_not_empty("unmerge_adapter");
  const auto sites = state_->tuner_layers();
  if (std::ranges::none_of(
          sites, [](const auto& site) { return site.layer->merged(); })) {
    TORCH_WARN("Already unmerged. Nothing to do.");
    return;
  }
  in_function("unmerge_adapter", [&] {
    for (const auto& site : sites) {
      in_layer(site, [&] { site.layer->check_unmergeable(); });
    }
  });
  all_or_nothing([&](Undo& undo) {
    for (const auto& site : sites) {
      if (site.layer->merged()) {
        undo.add(
            "module " + site.name,
            [layer = site.layer, merged = site.layer->merged_adapters()] {
              layer->merge(merged);
            });
        in_layer(site, [&] { site.layer->unmerge(); });
      }
    }
  });
}

void PeftModel::merge_and_unload(const MergeOptions& options) {
  state_->check_not_empty("merge_and_unload");
  const auto sites = lora_sites(*state_->model);
  auto& saved = *state_->saved;
  for (const auto& name : options.adapter_names()) {
    state_->adapters.at(name, "merge_and_unload");
  }
  const auto names = options.adapter_names().empty() ? active_adapters()
                                                     : options.adapter_names();
  in_function("merge_and_unload", [&] {
    saved.check_set_adapter(options.adapter_names());
    all_or_nothing([&](Undo& undo) {
      undo.add("modules_to_save", [&] { saved.show(); });
      saved.show(names);
      const auto written = written_by_merge(*state_->model, names);
      merge_all(
          *this,
          written,
          MergeOptions(options).adapter_names(names),
          undo,
          /*warns=*/!written.empty());
    });
  });
  saved.keep(names);
  remove_layers(*state_, sites, "merge_and_unload");
}

void PeftModel::unload() {
  const auto sites = lora_sites(*state_->model);
  if (sites.empty()) { // else there may be layers without adapters
    state_->check_not_empty("unload");
  }
  remove_layers(*state_, sites, "unload");
}

} // namespace torchlora
