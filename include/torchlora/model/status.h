#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

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
  /// Numbers of parameters, value by value, and of adapted layers.
  int64_t trainable_params = 0, total_params = 0, num_adapter_layers = 0;
  /// @}

  /// Whether the adapters are on.
  Consistency enabled = Consistency::kTrue;
  /// @{
  /// None: the layers differ (PEFT's "irregular"). Of active adapters, in
  /// which of those that they have.
  std::optional<std::vector<std::string>> active_adapters, merged_adapters;
  /// @}

  /// By adapter name: whether its tensors train.
  std::map<std::string, Consistency> requires_grad;
  /// In the order in which they were added.
  std::vector<std::string> available_adapters;
  /// By adapter name: "cpu", "cuda" …
  std::map<std::string, std::vector<std::string>> devices;
};

/// The LoRA layers of a model and the tables with rows, adapted by
/// `get_peft_model` or `inject_adapter`. ValueError if it has none.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(
    torch::nn::Module& model);
/// @{
/// The same of an adapted model, and as a whole.
TORCHLORA_API std::vector<TunerLayerStatus> get_layer_status(
    const PeftModel& model);
TORCHLORA_API TunerModelStatus get_model_status(const PeftModel& model);
/// @}

} // namespace torchlora
