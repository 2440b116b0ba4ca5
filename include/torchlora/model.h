#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>

#include <torch/nn/pimpl.h>
#include <torch/ordered_dict.h>

#include <torchlora/config/inject_options.h>
#include <torchlora/config/lora_config.h>
#include <torchlora/lora/combine.h>
#include <torchlora/model/options.h>

namespace torchlora {

class DisableAdapterGuard;
class LoraLayer;
class MixedBatchGuard;
class TunerLayer;
struct MixedBatch;
struct PeftState;

/// The handle that `get_peft_model` returns. It holds the state of the whole
/// model: the configuration of each adapter, the active adapters, and the
/// inactive values of base tensors that adapters train. Copies share this
/// state. Your code goes on calling the `forward` of your own model, never the
/// handle. PEFT's `PeftModel`.
class TORCHLORA_API PeftModel {
 public:
  /// @{
  /// Shares the state of `other`. A handle always has a state: moving it
  /// copies.
  PeftModel(const PeftModel& other) = default;
  PeftModel& operator=(const PeftModel& other) = default;
  /// @}
  /// Returns the user's model, which holds the LoRA layers.
  Module& base_model() const;
  /// @{
  /// Return the names of all adapters in the order in which they were added,
  /// and the names of the active ones in the order in which they act.
  std::vector<std::string> adapter_names() const;
  const std::vector<std::string>& active_adapters() const;
  /// @}

  /// Returns the configuration of an adapter, in which module names replace
  /// "all-linear" and an empty `target_modules`. ValueError for an unknown
  /// name.
  const LoraConfig& peft_config(
      const std::string& adapter_name = "default") const;
  /// Returns all LoRA layers of the model, each with the name of the module
  /// that it replaced.
  std::vector<std::pair<std::string, std::shared_ptr<LoraLayer>>> layers()
      const;

  /// Adds another adapter to the model. It is inactive and frozen until
  /// `set_adapter` names it. Its factors have the dtype of the base layer if
  /// `get_peft_model` was called without `autocast_adapter_dtype`. ValueError
  /// if the name is taken.
  void add_adapter(
      const std::string& adapter_name,
      const LoraConfig& config,
      const InjectOptions& options = {});
  /// Activates the adapters `adapter_names`, whose updates add up, and
  /// deactivates every other adapter of the model. Active adapters are
  /// trainable unless `inference_mode` is set; inactive ones are frozen.
  /// Unmerges first if adapters are merged. ValueError if two of the adapters
  /// train the same module (`modules_to_save`), bias or row of a table
  /// (`trainable_token_indices`).
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  /// @{
  /// The same for names in braces, `set_adapter({"a", "b"})`, and for one name.
  void set_adapter(
      std::initializer_list<std::string> adapter_names,
      bool inference_mode = false) {
    set_adapter(std::vector<std::string>(adapter_names), inference_mode);
  }
  void set_adapter(const std::string& adapter_name) {
    set_adapter(std::vector<std::string>{adapter_name});
  }
  /// @}

  /// Makes the tensors of adapters trainable or frozen, whether or not they are
  /// active, until the next `set_adapter`. ValueError for an unknown name.
  void set_requires_grad(
      const std::vector<std::string>& adapter_names,
      bool requires_grad = true);
  /// Removes an adapter from every layer. If no adapter is active then, the
  /// alphabetically first of the rest is activated. ValueError for an unknown
  /// name and for a merged adapter.
  void delete_adapter(const std::string& adapter_name);
  /// Adds a new adapter `adapter_name` that is the weighted combination of
  /// `adapters`. It is inactive and frozen; its scaling is 1 and its rank is
  /// the same in every layer (padded with zeros). Weights may be negative.
  /// Biases of `lora_bias` add up. ValueError if the name is taken, for DoRA
  /// adapters, for adapters that changed the base weights (PiSSA, KaSA), and
  /// for options that do not fit (`CombinationOptions`).
  void add_weighted_adapter(
      const std::vector<std::string>& adapters,
      const std::vector<double>& weights,
      const std::string& adapter_name,
      const CombinationOptions& options = {});
  /// Disables all adapters until the returned guard is destroyed. The forward
  /// then computes the base model, also while adapters are merged: it takes
  /// their updates out of its result, and the merged weights stay. If an
  /// initializer changed the base weights (`init::Traits::modifies_base`), it
  /// computes with the changed ones. PEFT's `with model.disable_adapter():`,
  /// which unmerges.
  [[nodiscard]] DisableAdapterGuard disable_adapter() const;
  /// Sends each sample of a batch through its own adapter until the returned
  /// guard is destroyed. `adapter_names[i]` names the adapter of sample i,
  /// whether or not it is active; "__base__" means none. Samples use the base
  /// model's own `modules_to_save`. It concerns the forwards of this thread
  /// only (docs/threads.md). PEFT's argument `adapter_names` of forward.
  /// ValueError for a model in training mode, unknown names, merged adapters,
  /// DoRA, adapters with `modules_to_save`, `bias` or
  /// `trainable_token_indices`, and for adapters of MultiheadAttention,
  /// EmbeddingBag, `target_parameters` and layers inside LibTorch's transformer
  /// layers, whose batch is not the first dimension.
  [[nodiscard]] MixedBatchGuard mixed_batch(
      const std::vector<std::string>& adapter_names) const;

  /// Adds the updates of adapters (default: the active ones) to the base
  /// weights, in place, and writes the rows that `trainable_token_indices`
  /// trained into their tables. The LoRA layers stay in the model. Whatever it
  /// throws, nothing is merged. ValueError if another module shares a weight or
  /// bias that the merge would write to: give one of the modules its own copy
  /// before you adapt the model. ValueError also for a weight that cannot be
  /// written to (an inference tensor, an expanded one).
  void merge_adapter(const MergeOptions& options = {});
  /// Subtracts all merged updates from the base weights, the last merged first.
  /// Warns if nothing is merged. Whatever it throws, all stay merged.
  void unmerge_adapter();
  /// Merges adapters (default: the active ones) and puts the base layers back
  /// into the module tree in place of the LoRA layers. The handle is empty
  /// afterwards: `add_adapter` and `load_adapter` adapt the model again, other
  /// functions that need an adapter throw ValueError. Throws as `merge_adapter`
  /// does.
  void merge_and_unload(const MergeOptions& options = {});
  /// Puts the base layers back into the module tree without merging, and
  /// restores the base tensors that adapters trained. Warns if an adapter
  /// changed the base weights when it was created (PiSSA, OLoRA): they stay
  /// changed.
  void unload();

  /// Returns the number of trainable parameter elements and of all parameter
  /// elements of the model. Shared memory counts once.
  std::pair<int64_t, int64_t> get_nb_trainable_parameters() const;
  /// Returns PEFT's summary as text: "trainable params: 64 || all params: 324
  /// || trainable%: 19.7531".
  std::string trainable_parameters_line() const;
  /// Prints `trainable_parameters_line()` to the standard output.
  void print_trainable_parameters() const;
  /// Returns the parameters of the model that require a gradient, for an
  /// optimizer.
  std::vector<Tensor> trainable_parameters() const;

  /// Returns the tensors of an adapter by the names that they have in PEFT's
  /// adapter file, such as `base_model.model.fc.lora_A.weight`. The tensors
  /// share the memory of the adapter.
  torch::OrderedDict<std::string, Tensor> state_dict(
      const std::string& adapter_name = "default") const;
  /// Writes adapter_config.json and adapter_model.safetensors for each of
  /// `selected_adapters` (default: all), as PEFT does. The adapter "default"
  /// goes into `directory`, an adapter of another name into a folder of its
  /// name below.
  ///
  /// An adapter whose initializer changed the base weights (PiSSA, OLoRA) fits
  /// only that changed base. `path_initial_model_for_weight_conversion` is the
  /// folder in which you saved the adapter before training; with it the file
  /// holds a plain LoRA adapter of twice the rank for the original base.
  void save_pretrained(
      const std::filesystem::path& directory,
      const std::vector<std::string>& selected_adapters = {},
      const std::filesystem::path& path_initial_model_for_weight_conversion =
          {}) const;
  /// The same with options.
  void save_pretrained(
      const std::filesystem::path& directory,
      const SaveOptions& options) const;
  /// Adds another adapter from a folder that PEFT or torchlora wrote. It is
  /// inactive until `set_adapter` names it; with `LoadOptions::is_trainable`
  /// its tensors require a gradient at once. DataError for missing, unexpected
  /// or mis-shaped tensors, and for a configuration that does not fit the
  /// model.
  void load_adapter(
      const std::filesystem::path& directory,
      const std::string& adapter_name,
      const LoadOptions& options = {});
  /// Adapts `model` with the adapter in a folder that PEFT or torchlora wrote,
  /// activates it and returns the handle.
  static PeftModel from_pretrained(
      Module& model,
      const std::filesystem::path& directory,
      const std::string& adapter_name = "default",
      const LoadOptions& options = {});
  /// The same for a module holder such as `torch::nn::Sequential`.
  template <class Impl>
  static PeftModel from_pretrained(
      const torch::nn::ModuleHolder<Impl>& model,
      const std::filesystem::path& directory,
      const std::string& adapter_name = "default",
      const LoadOptions& options = {}) {
    return from_pretrained(*model, directory, adapter_name, options);
  }

 private:
  friend struct StateAccess;

  explicit PeftModel(std::shared_ptr<PeftState> state)
      : state_(std::move(state)) {}

  std::shared_ptr<PeftState> state_;
};

/// An object that disables all adapters of a model, for all threads, while it
/// lives. Its destructor restores the state from before. Guards may be nested
/// in one thread; c10::Error if another thread has a guard of the model.
class TORCHLORA_API DisableAdapterGuard {
 public:
  /// Disables the adapters of `model`. `PeftModel::disable_adapter` calls it.
  explicit DisableAdapterGuard(const PeftModel& model);
  ~DisableAdapterGuard();
  DisableAdapterGuard(const DisableAdapterGuard&) = delete;
  DisableAdapterGuard& operator=(const DisableAdapterGuard&) = delete;

 private:
  /// Keeps the model alive.
  std::shared_ptr<PeftState> state_;
  /// Keeps the guards of other threads away.
  std::shared_ptr<void> hold_;
  /// Every adapted layer, and whether its adapters were enabled before.
  std::vector<std::pair<std::shared_ptr<TunerLayer>, bool>> saved_;
};

/// An object that sends each sample of a batch through its own adapter while it
/// lives, in the forwards of its thread (`PeftModel::mixed_batch`). Of nested
/// guards the inner one counts.
class TORCHLORA_API MixedBatchGuard {
 public:
  /// Assigns sample i of the following batches to adapter `adapter_names[i]`.
  /// ValueError for the models and adapters that `PeftModel::mixed_batch`
  /// lists. c10::Error if another thread has a guard of the model, and one of
  /// the two disables adapters: this one does if adapters have
  /// `modules_to_save`, biases or rows of tables that are active.
  MixedBatchGuard(
      const PeftModel& model,
      const std::vector<std::string>& adapter_names);
  ~MixedBatchGuard();
  MixedBatchGuard(const MixedBatchGuard&) = delete;
  MixedBatchGuard& operator=(const MixedBatchGuard&) = delete;

 private:
  /// Keeps the model alive.
  std::shared_ptr<PeftState> state_;
  /// Keeps guards of other threads away that would disturb this one.
  std::shared_ptr<void> hold_;
  std::shared_ptr<const MixedBatch> batch_;
  /// The modules whose adapters train own tensors (`modules_to_save`, table
  /// rows), and whether these were enabled before.
  std::vector<std::pair<std::shared_ptr<TunerLayer>, bool>> saved_;
};

/// Freezes `model`, replaces the layers that `config` targets by LoRA layers,
/// activates the adapter and returns the handle. A shared_ptr must own `model`,
/// as every module holder does. If it throws, the model is as before.
TORCHLORA_API PeftModel get_peft_model(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {});
/// The same for a module holder such as `torch::nn::Sequential`.
template <class Impl>
PeftModel get_peft_model(
    const torch::nn::ModuleHolder<Impl>& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {}) {
  return get_peft_model(*model, config, adapter_name, options);
}

/// Freezes `model`, replaces the layers that `config` targets by LoRA layers,
/// activates the adapter in them and returns these layers. Makes no
/// `PeftModel`. Without `options` the factors have the dtype of their base
/// layer.
TORCHLORA_API std::vector<std::shared_ptr<LoraLayer>> inject_adapter(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options =
        InjectOptions().autocast_adapter_dtype(false));

} // namespace torchlora
