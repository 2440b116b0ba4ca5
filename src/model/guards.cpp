#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/modules/transformerlayer.h>
#include <torch/types.h>

#include "lora/check_config.h"
#include "lora/mixed_batch.h"
#include "model/requirements.h"

namespace torchlora {
namespace {

/// The elements of a batch by the name of their adapter.
using Rows = std::map<std::string, std::vector<int64_t>>;

/// LibTorch's modules with inputs [length, batch, features], by what the names
/// of those inside begin with.
using Transformers = std::vector<std::pair<std::string, Module*>>;

Transformers transformers_of(Module& model) {
  Transformers result;
  for (const auto& item : model.named_modules("", /*include_self=*/true)) {
    auto* module = item.value().get();
    if (module->as<torch::nn::TransformerEncoderLayerImpl>() ||
        module->as<torch::nn::TransformerDecoderLayerImpl>()) {
      result.emplace_back(item.key().empty() ? "" : item.key() + ".", module);
    }
  }
  return result;
}

/// The one that a module is in; nullptr if it is in none.
Module* transformer_above(
    const Transformers& transformers,
    const std::string& name) {
  const auto found =
      std::ranges::find_if(transformers, [&](const auto& transformer) {
        return name.starts_with(transformer.first);
      });
  return found == transformers.end() ? nullptr : found->second;
}

void check_mixed_batch(
    PeftState& state,
    const Rows& rows,
    const std::vector<TargetSite>& sites) {
  std::vector<std::string> unknown;
  for (const auto& [name, indices] : rows) {
    if (!state.adapters.find(name)) {
      unknown.push_back(name);
      continue;
    }
    require(
        Requirement::kSum,
        "mixed_batch",
        state,
        sites,
        name,
        ": Cannot pass `adapter_names` when DoRA is enabled");
    require(
        Requirement::kNoOwnTensors,
        "mixed_batch",
        state,
        sites,
        name,
        ", which the elements of one batch cannot differ in");
  }
  TORCH_CHECK_VALUE(
      unknown.empty(),
      fmt::format(
          "[mixed_batch] Trying to infer with non-existing adapter(s): {}",
          fmt::join(unknown, ", ")));
  const auto transformers = transformers_of(*state.model);
  for (const auto& site : sites) {
    TORCH_CHECK_VALUE(
        !site.layer->is_training(),
        "[mixed_batch] Cannot pass `adapter_names` when the model is in "
        "training mode: call eval()");
    TORCH_CHECK_VALUE(
        !site.layer->merged(),
        "[mixed_batch] Cannot pass `adapter_names` when there are merged "
        "adapters, please call `unmerge_adapter` first");
    const bool has_one = std::ranges::any_of(
        rows, [&](const auto& row) { return site.layer->has(row.first); });
    TORCH_CHECK_VALUE(
        !has_one ||
            (site.kind == TargetSite::kModule &&
             site.layer->weight_use() != WeightUse::kEmbeddingBag),
        "[mixed_batch] MultiheadAttention, EmbeddingBag and target_parameters, "
        "as at \"",
        site.name,
        "\", are not supported: the first dimension of their input is not the "
        "batch");
    const auto* transformer =
        has_one ? transformer_above(transformers, site.name) : nullptr;
    TORCH_CHECK_VALUE(
        !transformer,
        "[mixed_batch] the batch of the ",
        transformer ? transformer->name() : "",
        " that \"",
        site.name,
        "\" is in comes second");
  }
}

using Saved = std::vector<std::pair<std::shared_ptr<TunerLayer>, bool>>;

void restore(const Saved& saved) {
  for (const auto& [layer, enabled] : saved) {
    layer->enable_adapters(enabled);
  }
}

/// Switches the layer off and appends what it was to `saved`; leaves all of
/// `saved` as it was if that throws.
void switch_off(const std::shared_ptr<TunerLayer>& layer, Saved& saved) {
  saved.emplace_back(layer, layer->adapters_enabled());
  try {
    layer->enable_adapters(false);
  } catch (...) {
    restore(saved);
    throw;
  }
}

} // namespace

DisableAdapterGuard::DisableAdapterGuard(const PeftModel& model)
    : state_(StateAccess::shared(model)),
      hold_(state_->guards.hold(/*switches_off=*/true, "disable_adapter")) {
  for (const auto& site : state_->tuner_layers()) {
    switch_off(site.layer, saved_);
  }
}

DisableAdapterGuard::~DisableAdapterGuard() {
  restore(saved_);
}

MixedBatchGuard::MixedBatchGuard(
    const PeftModel& model,
    const std::vector<std::string>& adapter_names)
    : state_(StateAccess::shared(model)) {
  Rows rows;
  for (size_t i = 0; i < adapter_names.size(); ++i) {
    if (adapter_names[i] != kBaseAdapter) {
      rows[adapter_names[i]].push_back(static_cast<int64_t>(i));
    }
  }
  const auto sites = lora_sites(*state_->model);
  check_mixed_batch(*state_, rows, sites);
  auto own = state_->own_layers();
  std::erase_if(own, [](const auto& site) {
    const auto has = [&](const auto& name) { return site.layer->has(name); };
    return std::ranges::none_of(site.layer->active_adapters(), has) &&
        !site.layer->merged();
  });
  hold_ = state_->guards.hold(/*switches_off=*/!own.empty(), "mixed_batch");
  auto batch = std::make_shared<MixedBatch>();
  batch->size = static_cast<int64_t>(adapter_names.size());
  for (const auto& [name, indices] : rows) {
    batch->rows.emplace_back(name, torch::tensor(indices, at::kLong));
  }
  for (const auto& site : sites) {
    batch->layers.insert(site.layer.get());
  }
  for (const auto& site : own) {
    switch_off(site.layer, saved_);
  }
  batch_ = std::move(batch);
  for (const auto& site : sites) {
    site.layer->begin_mixed_batch(batch_);
  }
}

MixedBatchGuard::~MixedBatchGuard() {
  restore(saved_);
}

DisableAdapterGuard PeftModel::disable_adapter() const {
  return DisableAdapterGuard(*this);
}

MixedBatchGuard PeftModel::mixed_batch(
    const std::vector<std::string>& adapter_names) const {
  return MixedBatchGuard(*this, adapter_names);
}

} // namespace torchlora
