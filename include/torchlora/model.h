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
struct PeftState;

/// The handle that `get_peft_model` returns: what belongs to the whole model
/// and not to a layer (configurations by adapter name, active adapters, the
/// versions of base tensors that are not the active ones). A shared pointer
/// inside; it is in nobody's call path: go on calling your own model's
/// `forward`. PEFT's `PeftModel`.
class TORCHLORA_API PeftModel {
 public:
  /// Returns the user's module, adapted in place.
  torch::nn::Module& base_model() const;
  /// @{
  /// In the order in which they were added, and in which they act.
  std::vector<std::string> adapter_names() const;
  const std::vector<std::string>& active_adapters() const;
  /// @}

  /// Returns the configuration of an adapter, its targets resolved.
  const LoraConfig& peft_config(
      const std::string& adapter_name = "default") const;
  /// Returns the LoRA layers with the names of the modules they replaced.
  std::vector<std::pair<std::string, std::shared_ptr<LoraLayer>>> layers()
      const;

  /// Adds a second adapter; it stays inactive and frozen until `set_adapter`.
  /// After `get_peft_model` without `autocast_adapter_dtype` it has the dtype
  /// of its base layers too.
  void add_adapter(
      const std::string& adapter_name,
      const LoraConfig& config,
      const InjectOptions& options = {});
  /// Makes these adapters active (their updates add up) and, unless
  /// `inference_mode`, trainable; all others frozen. ValueError if two of them
  /// train the same module (`modules_to_save`), bias or row of a table
  /// (`trainable_token_indices`).
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  /// @{
  /// The same for a list in place, and for one name.
  void set_adapter(
      std::initializer_list<std::string> adapter_names,
      bool inference_mode = false) {
    set_adapter(std::vector<std::string>(adapter_names), inference_mode);
  }
  void set_adapter(const std::string& adapter_name) {
    set_adapter(std::vector<std::string>{adapter_name});
  }
  /// @}

  /// Without the last one the model is the base model. ValueError if there is
  /// no such adapter, or if it is merged.
  void delete_adapter(const std::string& adapter_name);
  /// Adds an adapter that is the weighted combination of others, inactive and
  /// frozen; weights may be negative. Its scaling is 1, its rank that of the
  /// configuration in every layer (padded with zeros). Biases of `lora_bias`
  /// add up. ValueError for a name that is taken, for DoRA adapters, for
  /// adapters whose initializer changed the base, and for combinations that
  /// cannot be (`CombinationOptions`).
  void add_weighted_adapter(
      const std::vector<std::string>& adapters,
      const std::vector<double>& weights,
      const std::string& adapter_name,
      const CombinationOptions& options = {});
  /// PEFT's `with model.disable_adapter():`.
  [[nodiscard]] DisableAdapterGuard disable_adapter() const;
  /// Sends each element of the batches to come through the adapter named for
  /// it ("__base__": none), whatever is active, and through the base model's
  /// own `modules_to_save`: PEFT's argument
  /// `adapter_names` of forward. In eval mode; ValueError for a model in
  /// training, unknown names, merged adapters, DoRA, adapters with
  /// `modules_to_save`, `bias` or `trainable_token_indices`, MultiheadAttention
  /// and `target_parameters`.
  [[nodiscard]] MixedBatchGuard mixed_batch(
      const std::vector<std::string>& adapter_names) const;

  /// Adds the update to the base weights, in place, and puts the rows by
  /// `trainable_token_indices` into theirs; the layers stay. ValueError, and
  /// nothing is changed, if a weight or a bias it writes to is another module's
  /// too: give one of them a copy of its own before it is adapted (a new layer
  /// by `replace_module`, and the values copied).
  void merge_adapter(const MergeOptions& options = {});
  /// Takes all merged updates out again, last first.
  void unmerge_adapter();
  /// Merges and puts the base layers back into the tree. The handle is empty
  /// afterwards. ValueError as for `merge_adapter`.
  void merge_and_unload(const MergeOptions& options = {});
  /// Puts the base layers back without merging, and the base model's own
  /// tensors in the place of trained ones. After an initializer that took its
  /// update out of the base weights (PiSSA, OLoRA) they stay without it: warns.
  void unload();

  /// Returns the (trainable, all) numbers of parameters.
  std::pair<int64_t, int64_t> get_nb_trainable_parameters() const;
  /// Returns PEFT's line "trainable params: 64 || all params: 324 ||
  /// trainable%: 19.7531".
  std::string trainable_parameters_line() const;
  /// Prints that line to the standard output.
  void print_trainable_parameters() const;
  /// Returns the parameters an optimizer takes: those that require a gradient.
  std::vector<Tensor> trainable_parameters() const;

  /// Returns the tensors of an adapter under the names of PEFT's file
  /// (`base_model.model.fc.lora_A.weight`).
  torch::OrderedDict<std::string, Tensor> state_dict(
      const std::string& adapter_name = "default") const;
  /// Writes adapter_config.json and adapter_model.safetensors as PEFT does:
  /// "default" into `directory`, other adapters into a folder of their name
  /// below it. Empty `selected_adapters`: all.
  ///
  /// An adapter whose initializer changed the base weights (PiSSA, OLoRA) is
  /// one of the changed base. `path_initial_model_for_weight_conversion`, the
  /// folder in which it was saved before training, makes it a plain LoRA of
  /// the original base, of twice the rank.
  void save_pretrained(
      const std::filesystem::path& directory,
      const std::vector<std::string>& selected_adapters = {},
      const std::filesystem::path& path_initial_model_for_weight_conversion =
          {}) const;
  /// Loads a further adapter from a folder that PEFT or torchlora wrote.
  /// DataError on missing, unexpected or mis-shaped tensors.
  void load_adapter(
      const std::filesystem::path& directory,
      const std::string& adapter_name,
      const LoadOptions& options = {});
  /// Adapts `model` with an adapter from a folder.
  static PeftModel from_pretrained(
      torch::nn::Module& model,
      const std::filesystem::path& directory,
      const std::string& adapter_name = "default",
      const LoadOptions& options = {});
  /// The same for a module holder.
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

/// Switches adapters off for its lifetime and restores what was before. Nests.
class TORCHLORA_API DisableAdapterGuard {
 public:
  /// See `PeftModel::disable_adapter`.
  explicit DisableAdapterGuard(const PeftModel& model);
  ~DisableAdapterGuard();
  DisableAdapterGuard(const DisableAdapterGuard&) = delete;
  DisableAdapterGuard& operator=(const DisableAdapterGuard&) = delete;

 private:
  /// Keeps the model alive.
  std::shared_ptr<PeftState> state_;
  /// What was on before.
  std::vector<std::pair<std::shared_ptr<TunerLayer>, bool>> saved_;
};

/// `PeftModel::mixed_batch`, for its lifetime. Does not nest.
class TORCHLORA_API MixedBatchGuard {
 public:
  /// See `PeftModel::mixed_batch` for what is refused.
  MixedBatchGuard(
      const PeftModel& model,
      const std::vector<std::string>& adapter_names);
  ~MixedBatchGuard();
  MixedBatchGuard(const MixedBatchGuard&) = delete;
  MixedBatchGuard& operator=(const MixedBatchGuard&) = delete;

 private:
  /// Keeps the model alive.
  std::shared_ptr<PeftState> state_;
  std::vector<std::shared_ptr<LoraLayer>> layers_;
  /// What has tensors of its own, and whether it was on before.
  std::vector<std::pair<std::shared_ptr<TunerLayer>, bool>> saved_;
};

/// Freezes `model`, replaces its targeted layers by LoRA layers and returns
/// the handle. `model` must be owned by a shared_ptr (every module holder
/// is). On any error the model stays as it was.
TORCHLORA_API PeftModel get_peft_model(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {});
/// The same for a module holder.
template <class Impl>
PeftModel get_peft_model(
    const torch::nn::ModuleHolder<Impl>& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options = {}) {
  return get_peft_model(*model, config, adapter_name, options);
}

/// Injects an adapter without making a handle and returns the LoRA layers.
/// Without `options` adapters have the dtype of their base layer.
TORCHLORA_API std::vector<std::shared_ptr<LoraLayer>> inject_adapter(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    const InjectOptions& options =
        InjectOptions().autocast_adapter_dtype(false));

} // namespace torchlora
