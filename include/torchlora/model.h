#pragma once

#include <filesystem>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torch/ordered_dict.h>

#include <torchlora/config/lora_config.h>
#include <torchlora/lora/combine.h>

namespace torchlora {

class DisableAdapterGuard;
class LoraLayer;
class MixedBatchGuard;

/// The handle that `get_peft_model` returns: what belongs to the whole model
/// and not to a layer (configurations by adapter name, active adapters, the
/// versions of base tensors that are not the active ones). A shared pointer
/// inside; it is in nobody's call path: go on calling your own model's
/// `forward`. PEFT's `PeftModel`.
class TORCHLORA_API PeftModel {
 public:
  struct State;
  /// Of `get_peft_model`.
  explicit PeftModel(std::shared_ptr<State> state) : state_(std::move(state)) {}

  /// The user's module, adapted in place.
  torch::nn::Module& base_model() const;
  /// @{
  /// In the order in which they were added, and in which they act.
  std::vector<std::string> adapter_names() const;
  const std::vector<std::string>& active_adapters() const;
  /// @}

  /// The configuration of an adapter, its targets resolved.
  const LoraConfig& peft_config(
      const std::string& adapter_name = "default") const;
  /// The LoRA layers with the names of the modules they replaced.
  std::vector<std::pair<std::string, std::shared_ptr<LoraLayer>>> layers()
      const;

  /// Adds a second adapter; it stays inactive and frozen until `set_adapter`.
  void add_adapter(const std::string& adapter_name, const LoraConfig& config);
  /// Makes these adapters active (their updates add up) and, unless
  /// `inference_mode`, trainable; all others frozen. ValueError if two of them
  /// train the same module (`modules_to_save`), bias or row of a table
  /// (`trainable_token_indices`).
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  /// @{
  /// The same of a list in place, and of one name.
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
  /// adapters whose initialiser changed the base, and for combinations that
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
  /// `trainable_token_indices` into theirs; the layers stay.
  /// `safe_merge`: nothing is written if a merged value is not finite.
  /// ValueError, and nothing is changed, if a weight or a bias it writes to is
  /// another module's too; with `untie_weights` the adapted layer gets a copy
  /// of its own first, for good, and the other keeps the base's. A head that
  /// computes from an embedding's table (`nn::CausalLM::lm_head`) cannot be
  /// untied.
  void merge_adapter(
      bool safe_merge = false,
      const std::vector<std::string>& adapter_names = {},
      bool untie_weights = false);
  /// The names come second: a name alone would be a true `safe_merge`.
  void merge_adapter(const char*) = delete;
  /// Takes all merged updates out again, last first.
  void unmerge_adapter();
  /// Merges (the active adapters unless others are named) and puts the base
  /// layers back into the tree. The handle is empty afterwards. ValueError as
  /// of `merge_adapter`.
  void merge_and_unload(
      bool safe_merge = false,
      const std::vector<std::string>& adapter_names = {},
      bool untie_weights = false);
  /// As of `merge_adapter`.
  void merge_and_unload(const char*) = delete;
  /// Puts the base layers back without merging, and the base model's own
  /// tensors in the place of trained ones. After an initialiser that took its
  /// update out of the base weights (PiSSA, OLoRA) they stay without it: warns.
  void unload();

  /// For unmodified layers where there is no weight overlay
  /// (`lora/overlay.h`): call it before each forward once a factor has changed,
  /// after each step of an optimizer. With the overlay it does nothing.
  void refresh_weights();

  /// (trainable, all) numbers of parameters.
  std::pair<int64_t, int64_t> get_nb_trainable_parameters() const;
  /// PEFT's line "trainable params: 64 || all params: 324 || trainable%:
  /// 19.7531".
  std::string trainable_parameters_line() const;
  /// Prints that line to the standard output.
  void print_trainable_parameters() const;
  /// The parameters an optimizer takes: those that require a gradient.
  std::vector<torch::Tensor> trainable_parameters() const;

  /// Tensors of an adapter under the names of PEFT's file
  /// (`base_model.model.fc.lora_A.weight`). io/peft.h
  torch::OrderedDict<std::string, torch::Tensor> state_dict(
      const std::string& adapter_name = "default") const;
  /// Writes adapter_config.json and adapter_model.safetensors as PEFT does:
  /// "default" into `directory`, other adapters into a folder of their name
  /// below it. Empty `selected_adapters`: all.
  ///
  /// An adapter whose initialiser changed the base weights (PiSSA, OLoRA) is
  /// one of the changed base. `path_initial_model_for_weight_conversion`, the
  /// folder in which it was saved before training, makes it a plain LoRA of
  /// the original base, of twice the rank.
  void save_pretrained(
      const std::filesystem::path& directory,
      const std::vector<std::string>& selected_adapters = {},
      const std::filesystem::path& path_initial_model_for_weight_conversion =
          {}) const;
  /// Loads a further adapter from a folder that PEFT or torchlora wrote.
  /// DataError on missing, unexpected or mis-shaped tensors; unless `strict` a
  /// warning, and what is missing is zero (after pissa and olora what they made
  /// it).
  void load_adapter(
      const std::filesystem::path& directory,
      const std::string& adapter_name,
      bool is_trainable = false,
      bool strict = true);
  /// Adapts `model` with an adapter from a folder.
  static PeftModel from_pretrained(
      torch::nn::Module& model,
      const std::filesystem::path& directory,
      const std::string& adapter_name = "default",
      bool is_trainable = false,
      bool strict = true);

  /// For the library's own functions.
  State& state() const {
    return *state_;
  }

 private:
  std::shared_ptr<State> state_;
};

/// Switches adapters off for its lifetime and restores what was before. Nests.
class TORCHLORA_API DisableAdapterGuard {
 public:
  /// `PeftModel::disable_adapter`.
  explicit DisableAdapterGuard(const PeftModel& model);
  ~DisableAdapterGuard();
  DisableAdapterGuard(const DisableAdapterGuard&) = delete;
  DisableAdapterGuard& operator=(const DisableAdapterGuard&) = delete;

 private:
  PeftModel model_;
  std::vector<std::pair<std::shared_ptr<LoraLayer>, bool>> saved_;
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
  PeftModel model_;
  std::vector<std::shared_ptr<LoraLayer>> layers_;
};

/// Freezes `model`, replaces its targeted layers by LoRA layers and returns
/// the handle. `model` must be owned by a shared_ptr (every module holder
/// is). `autocast_adapter_dtype`: adapters of bf16 and fp16 layers are fp32.
/// Transactional: on any error the model is as before.
TORCHLORA_API PeftModel get_peft_model(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default",
    bool autocast_adapter_dtype = true);

/// The same without a handle: adapters have the base layers' dtype. Returns
/// the LoRA layers.
TORCHLORA_API std::vector<std::shared_ptr<LoraLayer>> inject_adapter(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name = "default");

} // namespace torchlora
