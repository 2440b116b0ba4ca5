#pragma once

#include <map>

#include <torchlora/types.h>

#include <torchlora/export.h>
#include <torchlora/lora/adapter_set.h>

namespace torchlora {

/// Whether a property holds for all parts of a whole: no, yes, or only for
/// some. PEFT's `bool | Literal["irregular"]`.
enum class Consistency {
  /// It holds for no part.
  kFalse,
  /// It holds for every part.
  kTrue,
  /// It holds for some parts and not for others.
  kIrregular,
};

/// The state of one adapted layer, as `get_layer_status` returns it. Field
/// names are PEFT's.
struct TunerLayerStatus {
  /// The name of the module that was adapted; for trained table rows it ends in
  /// ".token_adapter".
  std::string name;
  /// The C++ type of the layer, for example "torchlora::LoraLinear".
  std::string module_type;
  /// Whether the layer's forward uses its adapters.
  bool enabled = true;
  /// @{
  /// The active adapters in the order in which they act, and the merged ones in
  /// the order in which they were merged.
  std::vector<std::string> active_adapters, merged_adapters;
  /// @}

  /// For each adapter name: whether its tensors in this layer require a
  /// gradient.
  std::map<std::string, Consistency> requires_grad;
  /// The names of the layer's adapters, sorted alphabetically.
  std::vector<std::string> available_adapters;
  /// For each adapter name: the types of the devices that hold its tensors
  /// ("cpu", "cuda" …).
  std::map<std::string, std::vector<std::string>> devices;
};

/// An object in a model that has adapters: a `LoraLayer`, the trained rows of a
/// table (`TrainableTokens`), or the `modules_to_save`. A function of
/// `PeftModel` first calls the checks of all these objects and then changes all
/// of them. PEFT's `BaseTunerLayer` and `AuxiliaryTrainingWrapper`.
class TORCHLORA_API TunerLayer {
 public:
  virtual ~TunerLayer();

  /// Returns whether this object has an adapter of this name.
  virtual bool has(const std::string& adapter_name) const = 0;
  /// Returns which adapters are active, which are merged, and whether adapters
  /// are enabled.
  virtual const AdapterStates& states() const = 0;
  /// Returns the tensors of an adapter that PEFT's file stores. Each key is the
  /// part of the file's key after the module's name, for example
  /// "lora_A.weight".
  virtual NamedTensors adapter_state(const std::string& adapter_name) const = 0;

  /// Throws ValueError if the adapters `adapter_names` cannot be active
  /// together. `PeftModel::set_adapter` calls it first.
  virtual void check_set_adapter(
      const std::vector<std::string>& adapter_names) const;
  /// Activates `adapter_names` and deactivates every other adapter of this
  /// object; skips names that it does not have. Active adapters become
  /// trainable unless `inference_mode` is set; inactive ones are frozen.
  virtual void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false) = 0;
  /// Makes the tensors of an adapter trainable or frozen, whether or not it is
  /// active, until the next `set_adapter`. Does nothing for an unknown
  /// name.
  virtual void set_requires_grad(
      const std::string& adapter_name,
      bool requires_grad) = 0;
  /// Enables or disables the adapters without changing which are active or
  /// trainable. Disabled, the forward is the base model's, also after a merge.
  virtual void enable_adapters(bool enabled) = 0;
  /// Removes an adapter from this object. Does nothing for an unknown name.
  /// ValueError if the adapter is merged.
  virtual void delete_adapter(const std::string& adapter_name) = 0;

  /// Throws if `merge` cannot merge the adapters `adapter_names` (default: the
  /// active ones), for example ValueError for a tensor that cannot be written
  /// to, and with `safe_merge` also if a merged value would not be finite.
  /// Computes the updates once to see that it can. Changes nothing.
  virtual void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const = 0;
  /// Adds the updates of `adapter_names` (default: the active ones) to the base
  /// tensors, in place and in this order. Skips adapters that are merged
  /// already. The caller calls `check_mergeable` first.
  virtual void merge(const std::vector<std::string>& adapter_names = {}) = 0;
  /// Throws if `unmerge` cannot change the base tensors. Changes nothing.
  virtual void check_unmergeable() const = 0;
  /// Removes merged updates from the base tensors, the last merged first, until
  /// `count` are left.
  virtual void unmerge(size_t count = 0) = 0;
  /// Disconnects this object from the model, whose layers then compute without
  /// it. A merged update stays in the base tensors.
  virtual void unload() = 0;

  /// Writes the state of this object to all fields of `status` except `name`,
  /// which the caller sets.
  void fill(TunerLayerStatus& status) const;

  /// @{
  /// Returns a field of `states()`; `merged`: whether any adapter is.
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
  /// @}

 protected:
  /// Returns the names of all adapters of this object, in the order in which
  /// they were added.
  virtual std::vector<std::string> adapter_names() const = 0;
};

} // namespace torchlora
