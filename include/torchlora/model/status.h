#pragma once

#include <torchlora/lora/tuner_layer.h>
#include <torchlora/model.h>

namespace torchlora {

/// The state of a whole adapted model, as `get_model_status` returns it. Field
/// names are PEFT's.
struct TunerModelStatus {
  /// The C++ type of the base model.
  std::string base_model_type;
  /// For each adapter name: the type of the adapter, always "LORA".
  std::map<std::string, std::string> peft_types;
  /// @{
  /// The number of trainable parameter elements, of all parameter elements, and
  /// of adapted layers.
  int64_t trainable_params = 0, total_params = 0, num_adapter_layers = 0;
  /// @}

  /// Whether adapters are enabled in all layers, in none, or only in some.
  Consistency enabled = Consistency::kTrue;
  /// @{
  /// The active and the merged adapters of the model. nullopt if layers differ
  /// in them (PEFT's "irregular"). A layer that does not have an adapter does
  /// not count as different.
  std::optional<std::vector<std::string>> active_adapters, merged_adapters;
  /// @}

  /// For each adapter name: whether all, none or some of its tensors require a
  /// gradient.
  std::map<std::string, Consistency> requires_grad;
  /// The names of all adapters, sorted alphabetically.
  std::vector<std::string> available_adapters;
  /// For each adapter name: the types of the devices that hold its tensors
  /// ("cpu", "cuda" …).
  std::map<std::string, std::vector<std::string>> devices;
};

/// Returns the state of each adapted layer and of each table with trained rows
/// in `model`, which `get_peft_model` or `inject_adapter` adapted. ValueError
/// if it has none.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(Module& model);
/// @{
/// Return the state of each adapted layer, and the state of the model as a
/// whole. ValueError if no layer is adapted.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(
    const PeftModel& model);
TORCHLORA_API TunerModelStatus get_model_status(const PeftModel& model);
/// @}

} // namespace torchlora
