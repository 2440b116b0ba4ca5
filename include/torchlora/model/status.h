#pragma once

#include <torchlora/lora/tuner_layer.h>
#include <torchlora/model.h>

namespace torchlora {

/// State of an adapted model, by PEFT's names.
struct TunerModelStatus {
  /// Type of the base model.
  std::string base_model_type;
  /// "LORA", by adapter name.
  std::map<std::string, std::string> peft_types;
  /// @{
  /// Numbers of trainable and of all parameters, and of adapted layers.
  int64_t trainable_params = 0, total_params = 0, num_adapter_layers = 0;
  /// @}

  /// Whether the adapters are on.
  Consistency enabled = Consistency::kTrue;
  /// @{
  /// None if the layers differ (PEFT's "irregular"). A layer that lacks an
  /// active adapter does not count as different.
  std::optional<std::vector<std::string>> active_adapters, merged_adapters;
  /// @}

  /// By adapter name: whether its tensors train.
  std::map<std::string, Consistency> requires_grad;
  /// In the order in which they were added.
  std::vector<std::string> available_adapters;
  /// By adapter name: "cpu", "cuda" …
  std::map<std::string, std::vector<std::string>> devices;
};

/// Returns the state of each LoRA layer and each table with trained rows of a
/// model that `get_peft_model` or `inject_adapter` adapted. ValueError if it
/// has none.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(
    torch::nn::Module& model);
/// @{
/// Returns the same for an adapted model, and for it as a whole.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(
    const PeftModel& model);
TORCHLORA_API TunerModelStatus get_model_status(const PeftModel& model);
/// @}

} // namespace torchlora
