#pragma once

#include <map>

#include <torchlora/tensor.h>

#include <torchlora/export.h>
#include <torchlora/lora/adapter_set.h>

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

/// State of one adapted layer, by PEFT's names.
struct TunerLayerStatus {
  /// The module that was adapted; for token rows "….token_adapter".
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
  /// Sorted.
  std::vector<std::string> available_adapters;
  /// By adapter name: "cpu", "cuda" …
  std::map<std::string, std::vector<std::string>> devices;
};

/// Something in a model that has adapters: a `LoraLayer`, the rows of a table
/// (`TrainableTokens`), the `modules_to_save`. A verb of `PeftModel` is one
/// loop over these: the checks over all, then the change of all. PEFT's
/// `BaseTunerLayer` and `AuxiliaryTrainingWrapper`.
class TORCHLORA_API TunerLayer {
 public:
  virtual ~TunerLayer();

  virtual bool has(const std::string& adapter_name) const = 0;
  /// Active and merged adapters; whether adapters are enabled.
  virtual const AdapterStates& states() const = 0;
  /// Returns the tensors of an adapter by their keys in PEFT's file, behind
  /// the name of the module.
  virtual std::vector<std::pair<std::string, Tensor>> adapter_state(
      const std::string& adapter_name) const = 0;

  /// ValueError if these adapters cannot be active together.
  virtual void check_set_adapter(
      const std::vector<std::string>& adapter_names) const;
  /// Makes these adapters active (names the layer does not have are skipped)
  /// and trainable unless `inference_mode`; freezes all others.
  virtual void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false) = 0;
  /// Switches the adapters on or off; leaves `requires_grad` alone.
  virtual void enable_adapters(bool enabled) = 0;
  /// Does nothing if there is no such adapter; ValueError if it is merged.
  virtual void delete_adapter(const std::string& adapter_name) = 0;

  /// ValueError if these adapters (default: the active ones) cannot be merged;
  /// with `safe_merge` if a merged value is not finite.
  virtual void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const = 0;
  /// Adds the updates of these adapters (default: the active ones) to the base
  /// tensors, in place and in order; skips those that are merged. Call
  /// `check_mergeable` first.
  virtual void merge(const std::vector<std::string>& adapter_names = {}) = 0;
  /// Takes the merged updates out again, last first.
  virtual void unmerge() = 0;
  /// Ends the layer's hold on the model; what is merged stays.
  virtual void unload() = 0;

  /// Fills in all but the name.
  void fill(TunerLayerStatus& status) const;

  const std::vector<std::string>& active_adapters() const {
    return states().active;
  }
  const std::vector<std::string>& merged_adapters() const {
    return states().merged;
  }
  bool merged() const {
    return !states().merged.empty();
  }
  bool adapters_enabled() const {
    return states().enabled;
  }

 protected:
  /// In the order in which they were added.
  virtual std::vector<std::string> adapter_names() const = 0;
};

} // namespace torchlora
