#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <torchlora/model.h>

namespace torchlora {

/// Whether something holds for all parts of a whole; PEFT's `bool |
/// Literal["irregular"]`.
enum class Consistency {
  /// All say no.
  kFalse,
  /// All say yes.
  kTrue,
  /// Some say yes, some no.
  kIrregular,
};

/// State of one LoRA layer, or of the rows that adapters train of one table, by
/// PEFT's names.
struct TunerLayerStatus {
  /// The module that was adapted; of rows "….token_adapter".
  std::string name;
  /// Type of the layer, for example "torchlora::LoraLinear".
  std::string module_type;
  /// Whether the adapters are on.
  bool enabled = true;
  /// @{
  /// In the order in which they act and were merged.
  std::vector<std::string> active_adapters, merged_adapters;
  /// @}

  /// By adapter name: whether its tensors train.
  std::map<std::string, Consistency> requires_grad;
  /// In the order in which they were added.
  std::vector<std::string> available_adapters;
  /// By adapter name: "cpu", "cuda" …
  std::map<std::string, std::vector<std::string>> devices;
};

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
