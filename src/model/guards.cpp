#include <algorithm>
#include <map>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/nn/modules/transformerlayer.h>
#include <torch/types.h>

#include "config/names.h"
#include "model/sites.h"
#include "model/state.h"
#include "model/token_rows.h"

namespace torchlora {
namespace {

constexpr auto kBase = "__base__";

/// The elements of a batch by the name of their adapter.
using Rows = std::map<std::string, std::vector<int64_t>>;

/// The module of LibTorch's with inputs [length, batch, features] that a module
/// is in; nullptr if it is in none.
torch::nn::Module* transformer_above(
    torch::nn::Module& model,
    const std::string& name) {
  for (const auto& item : model.named_modules("", /*include_self=*/true)) {
    auto* module = item.value().get();
    const bool is_above =
        item.key().empty() || name.starts_with(item.key() + ".");
    if (is_above &&
        (module->as<torch::nn::TransformerEncoderLayerImpl>() ||
         module->as<torch::nn::TransformerDecoderLayerImpl>())) {
      return module;
    }
  }
  return nullptr;
}

void check_mixed_batch(
    PeftModel::State& state,
    const Rows& rows,
    const std::vector<TargetSite>& sites) {
  std::vector<std::string> unknown;
  for (const auto& [name, indices] : rows) {
    const auto* adapter = state.find(name);
    if (!adapter) {
      unknown.push_back(name);
      continue;
    }
    TORCH_CHECK_VALUE(
        !adapter->config.use_dora(),
        "[mixed_batch] Cannot pass `adapter_names` when DoRA is enabled, as "
        "for adapter ",
        name);
    TORCH_CHECK_VALUE(
        !state.has_own(name),
        "[mixed_batch] adapter ",
        name,
        " has modules_to_save, biases or rows of tables of its own, which the "
        "elements of one "
        "batch cannot differ in");
  }
  TORCH_CHECK_VALUE(
      unknown.empty(),
      fmt::format(
          "[mixed_batch] Trying to infer with non-existing adapter(s): {}",
          fmt::join(unknown, ", ")));
  for (const auto& site : sites) {
    TORCH_CHECK_VALUE(
        !site.layer->is_training(),
        "[mixed_batch] Cannot pass `adapter_names` when the model is in "
        "training mode: call eval()");
    TORCH_CHECK_VALUE(
        !site.layer->merged(),
        "[mixed_batch] Cannot pass `adapter_names` when there are merged "
        "adapters, please call `unmerge_adapter` first");
    TORCH_CHECK_VALUE(
        !site.layer->has_dense_weight(),
        "[mixed_batch] \"",
        site.name,
        "\" is adapted without the weight overlay (torchlora/lora/overlay.h), "
        "by one dense weight for the whole batch");
    const bool has_one = std::ranges::any_of(rows, [&](const auto& row) {
      return site.layer->find_adapter(row.first) != nullptr;
    });
    TORCH_CHECK_VALUE(
        !has_one || (site.kind == TargetSite::kModule),
        "[mixed_batch] MultiheadAttention and target_parameters, as at \"",
        site.name,
        "\", are not supported: the first dimension of their input is not the "
        "batch");
    const auto* transformer =
        has_one ? transformer_above(*state.model, site.name) : nullptr;
    TORCH_CHECK_VALUE(
        !transformer,
        "[mixed_batch] the batch of the ",
        transformer ? transformer->name() : "",
        " that \"",
        site.name,
        "\" is in comes second");
  }
}

/// Until `--disabled`; or throws and leaves all as it was.
void show_base(PeftModel::State& state) {
  ++state.disabled;
  try {
    state.select_versions();
  } catch (...) {
    --state.disabled;
    throw;
  }
}

} // namespace

void PeftModel::State::select_versions() {
  versions.select(
      disabled > 0 ? std::vector<std::string>() : active, trainable);
  const bool has_tokens = std::ranges::any_of(adapters, [](const auto& item) {
    return !item.config.trainable_token_indices().is_none();
  });
  if (has_tokens) { // else every guard would walk through the model for them
    for (const auto& [name, tokens] : token_adapters(*model)) {
      tokens->enable_adapters(disabled == 0);
    }
  }
}

bool PeftModel::State::has_own(const std::string& adapter_name) const {
  return versions.has(adapter_name) ||
      std::ranges::any_of(token_adapters(*model), [&](const auto& item) {
           return item.second->find_adapter(adapter_name) != nullptr;
         });
}

PeftModel::State::Adapter* PeftModel::State::find(
    const std::string& adapter_name) {
  for (auto& adapter : adapters) {
    if (adapter.name == adapter_name) {
      return &adapter;
    }
  }
  return nullptr;
}

PeftModel::State::Adapter& PeftModel::State::at(
    const std::string& adapter_name) {
  auto* adapter = find(adapter_name);
  TORCH_CHECK_VALUE(
      adapter, "[PeftModel] Adapter ", adapter_name, " not found.");
  return *adapter;
}

DisableAdapterGuard::DisableAdapterGuard(const PeftModel& model)
    : model_(model) {
  for (const auto& site : lora_sites(model_.base_model())) {
    saved_.emplace_back(site.layer, site.layer->adapters_enabled());
  }
  show_base(model_.state());
  for (const auto& [layer, enabled] : saved_) {
    layer->enable_adapters(false);
  }
}

DisableAdapterGuard::~DisableAdapterGuard() {
  for (const auto& [layer, enabled] : saved_) {
    layer->enable_adapters(enabled);
  }
  --model_.state().disabled;
  model_.state().select_versions();
}

MixedBatchGuard::MixedBatchGuard(
    const PeftModel& model,
    const std::vector<std::string>& adapter_names)
    : model_(model) {
  Rows rows;
  for (size_t i = 0; i < adapter_names.size(); ++i) {
    if (adapter_names[i] != kBase) {
      rows[adapter_names[i]].push_back(static_cast<int64_t>(i));
    }
  }
  const auto sites = lora_sites(model.base_model());
  check_mixed_batch(model.state(), rows, sites);
  auto batch = std::make_shared<MixedBatch>();
  batch->size = static_cast<int64_t>(adapter_names.size());
  for (const auto& [name, indices] : rows) {
    batch->rows.emplace_back(name, torch::tensor(indices, at::kLong));
  }
  for (const auto& site : sites) {
    layers_.push_back(site.layer);
  }
  show_base(model_.state());
  for (const auto& layer : layers_) {
    layer->set_mixed_batch(batch);
  }
}

MixedBatchGuard::~MixedBatchGuard() {
  for (const auto& layer : layers_) {
    layer->set_mixed_batch(nullptr);
  }
  --model_.state().disabled;
  model_.state().select_versions();
}

DisableAdapterGuard PeftModel::disable_adapter() const {
  return DisableAdapterGuard(*this);
}

MixedBatchGuard PeftModel::mixed_batch(
    const std::vector<std::string>& adapter_names) const {
  return MixedBatchGuard(*this, adapter_names);
}

} // namespace torchlora
