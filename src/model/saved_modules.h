#pragma once

#include <torchlora/lora/tuner_layer.h>

#include "model/sites.h"

namespace torchlora {

/// A base-model tensor for which an adapter keeps its own value: a tensor of a
/// `modules_to_save` module, a trained bias, or an embedding table stored in
/// the adapter file.
struct SavedTensor {
  /// In the adapter's file, behind "base_model.model.".
  std::string key;
  /// The model's tensor.
  Tensor tensor;
  /// Undefined: starts as the base model's.
  Tensor value = {};
  bool trains = true;
};

/// The versions of base tensors, by adapter. A tensor stays the model's own
/// object, which all handles and optimizers see; it is given the data (and the
/// gradient) of the active adapter's version. So a module of any type can be
/// trained whole, and disabling an adapter gives the base back. PEFT's
/// `ModulesToSaveWrapper`.
class SavedModules : public TunerLayer {
 public:
  /// Adds an adapter's versions, inactive.
  void add(const std::string& adapter, const std::vector<SavedTensor>& tensors);
  /// Whether some adapter has a version of the tensor.
  bool holds(const Tensor& tensor) const;
  /// Returns the base model's version of a tensor.
  Tensor base(const Tensor& tensor) const;
  /// Makes every tensor the version of the one of `adapters` that has one, the
  /// base model's where none has; `show()` does so for those that should be.
  void show(const std::vector<std::string>& adapters);
  void show();
  /// Forgets all versions but what these adapters show.
  void keep(const std::vector<std::string>& adapters);

  bool has(const std::string& adapter) const override;
  const AdapterStates& states() const override {
    return states_;
  }
  /// Returns the tensors by full keys.
  NamedTensors adapter_state(const std::string& adapter) const override;
  /// ValueError, with the keys, if two of the adapters have versions of one
  /// tensor.
  void check_set_adapter(
      const std::vector<std::string>& adapters) const override;
  void set_adapter(
      const std::vector<std::string>& adapters,
      bool inference_mode = false) override;
  void set_requires_grad(const std::string& adapter, bool requires_grad)
      override;
  void enable_adapters(bool enabled) override;
  void delete_adapter(const std::string& adapter) override;
  /// ValueError for an adapter with versions that is not active.
  void check_mergeable(
      const std::vector<std::string>& adapters,
      bool safe_merge) const override;
  /// Does nothing: the active versions are the model's tensors.
  void merge(const std::vector<std::string>& /*adapters*/ = {}) override {}
  void check_unmergeable() const override {}
  void unmerge(size_t /*count*/ = 0) override {}
  /// Gives the base model's versions back and forgets all others.
  void unload() override {
    keep({});
  }

 protected:
  std::vector<std::string> adapter_names() const override;

 private:
  struct Version {
    /// Empty: the base model's.
    std::string adapter;
    std::string key;
    /// Whether it can require a gradient, and whether it does while it is
    /// shown.
    bool trains = false, requires_grad = false;
    /// While it is not the current one.
    Tensor value = {}, grad = {};
  };
  struct Slot {
    Tensor tensor;
    /// The base model's first.
    std::vector<Version> versions;
    size_t current = 0;

    size_t find(const std::string& adapter) const;
    void make_current(size_t index);
    /// Writes the current version's `requires_grad` to the tensor.
    void show_requires_grad() const;
  };

  std::vector<Slot> slots_;
  AdapterStates states_;
};

/// Enters the heads that the configuration's task type trains, as PEFT does,
/// in its `modules_to_save`.
void add_task_heads(Module& model, LoraConfig& config);

/// Returns the tensors that an adapter has versions of: those of the modules to
/// save and, by `config.bias()`, biases of the model and of `adapted`.
/// ValueError for a module that is adapted or tied, and for an entry that names
/// no module; of a loaded configuration that is a warning.
std::vector<SavedTensor> find_saved_tensors(
    Module& model,
    const LoraConfig& config,
    const std::vector<TargetSite>& adapted,
    bool is_loaded);

} // namespace torchlora
