#include <torchlora/model/status.h>

#include <algorithm>
#include <set>

#include <torchlora/detail/names.h>

#include "model/sites.h"

namespace torchlora {
namespace {

using Names = std::vector<std::string>;

/// Returns what holds for two parts together.
Consistency both(Consistency a, Consistency b) {
  return a == b ? a : Consistency::kIrregular;
}

/// The active adapters, if every layer has those of them that it can have.
std::optional<Names> common_active(
    const std::vector<TunerLayerStatus>& layers,
    const Names& active) {
  for (const auto& layer : layers) {
    Names expected;
    for (const auto& name : active) {
      if (detail::contains(layer.available_adapters, name)) {
        expected.push_back(name);
      }
    }
    if (layer.active_adapters != expected) {
      return std::nullopt;
    }
  }
  return active;
}

/// The merged adapters, if each is merged in every layer that has it.
std::optional<Names> common_merged(
    const std::vector<TunerLayerStatus>& layers) {
  std::set<std::string> merged;
  for (const auto& layer : layers) {
    merged.insert(layer.merged_adapters.begin(), layer.merged_adapters.end());
  }
  for (const auto& layer : layers) {
    for (const auto& name : layer.available_adapters) {
      if (merged.contains(name) &&
          !detail::contains(layer.merged_adapters, name)) {
        return std::nullopt;
      }
    }
  }
  return Names(merged.begin(), merged.end());
}

} // namespace

std::vector<TunerLayerStatus> get_layer_status(Module& model) {
  std::vector<TunerLayerStatus> result;
  for (const auto& site : tuner_layers(model)) {
    site.layer->fill(result.emplace_back());
    result.back().name = site.name;
  }
  TORCH_CHECK_VALUE(
      !result.empty(),
      "[get_layer_status] No adapter layers found in the model, please ensure "
      "that it's a PEFT model or that you have PEFT adapters injected in the "
      "model.");
  return result;
}

std::vector<TunerLayerStatus> get_layer_status(const PeftModel& model) {
  return get_layer_status(model.base_model());
}

TunerModelStatus get_model_status(const PeftModel& model) {
  const auto layers = get_layer_status(model);
  TunerModelStatus status;
  status.base_model_type = model.base_model().name();
  std::tie(status.trainable_params, status.total_params) =
      model.get_nb_trainable_parameters();
  status.num_adapter_layers = static_cast<int64_t>(layers.size());
  status.active_adapters = common_active(layers, model.active_adapters());
  status.merged_adapters = common_merged(layers);
  status.available_adapters = model.adapter_names();
  std::ranges::sort(status.available_adapters);
  for (const auto& name : status.available_adapters) {
    status.peft_types[name] = "LORA";
  }
  status.enabled =
      layers.front().enabled ? Consistency::kTrue : Consistency::kFalse;
  for (const auto& layer : layers) {
    status.enabled = both(
        status.enabled,
        layer.enabled ? Consistency::kTrue : Consistency::kFalse);
    for (const auto& [name, value] : layer.requires_grad) {
      const auto found = status.requires_grad.emplace(name, value).first;
      found->second = both(found->second, value);
    }
    for (const auto& [name, devices] : layer.devices) {
      auto& all = status.devices[name];
      for (const auto& device : devices) {
        if (!detail::contains(all, device)) {
          all.push_back(device);
        }
      }
      std::ranges::sort(all);
    }
  }
  return status;
}

} // namespace torchlora
