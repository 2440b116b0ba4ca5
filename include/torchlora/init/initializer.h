#pragma once

// Initializers of the factors A and B: what `init_lora_weights` names.
//
// Each one is an entry of a table: its name, a function that overwrites the
// factors of one layer, and traits. The rest of the library asks the traits
// and never compares names. The functions are in the headers of this folder,
// one per initializer; `register_initializer` adds a function of the user's to
// the same table.

#include <functional>

#include <torchlora/tensor.h>

#include <torchlora/config/lora_config.h>

namespace torchlora::init {

/// The factors of an update as matrices, fp32 on the CPU. For a convolution
/// in_features counts kernel elements too.
struct Factors {
  /// [r, in_features]
  Tensor A;
  /// [out_features, r]
  Tensor B;
  /// B's bias [out_features] with `lora_bias`, else undefined.
  Tensor bias = {};
  /// Set by an initializer that replaces the base weight (LoftQ) to the new
  /// one, [out_features, in_features].
  Tensor base_weight = {};
};

/// What an initializer may look at.
struct Arguments {
  /// The configuration of the adapter.
  const LoraConfig& config;
  /// The rank in this layer.
  int64_t r;
  /// The factor of B A in the update.
  double scaling;
  /// [out_features, in_features], in the dtype and on the device of the base
  /// layer. Read only.
  Tensor base_weight;
  /// Statistics collected from sample data (`InjectOptions::init_statistics`);
  /// undefined if there are none for the layer. CorDA: the covariance
  /// [in_features, in_features] of the layer's input. LoRA-GA: the mean
  /// gradient [out_features, in_features] of the base weight.
  Tensor statistics = {};
  /// Whether values from a file will overwrite the factors. An initializer
  /// then only changes the base weight, if it does so, and draws nothing.
  bool is_loaded = false;
};

/// Overwrites the factors of one layer. On entry they hold what the layer
/// constructed (for a linear layer both drawn as `torch::nn::Linear` draws its
/// weight). Functions of the library draw from the CPU's default generator in
/// PEFT's order: a seed gives PEFT's factors.
using InitFunction =
    std::function<void(Factors& factors, const Arguments& arguments)>;

/// What the library has to know about an initializer.
struct Traits {
  /// The base weight changes, so that the adapted layer starts as the base
  /// layer: it becomes `Factors::base_weight` if that is set, else it loses
  /// scaling · B A. The adapter must then be the first of each of its layers.
  bool modifies_base = false;
  /// For an initializer that modifies the base: whether a second run on the
  /// same weight changes it in the same way; nullptr: it does. If it does
  /// not, a saved adapter does not load onto the original base.
  bool (*is_repeatable)(const LoraConfig& config) = nullptr;
  /// For an initializer that modifies the base: whether
  /// `path_initial_model_for_weight_conversion` can save its adapter as a plain
  /// LoRA of the original base. It cannot after `Factors::base_weight` was set.
  bool is_convertible = true;
  /// Whether B is trained.
  bool trains_B = true;
  /// Whether it needs sample data (`tools/preprocess.h`).
  bool needs_data = false;
  /// Whether it needs its own configuration (`loftq_config`).
  bool needs_config = false;
  /// Whether it draws A and zeroes B whatever the weight is. Embeddings draw B
  /// and zero A instead, as in PEFT (`embedding_init`).
  bool draws_A = false;
  /// Whether it sets `Factors::bias`.
  bool supports_lora_bias = false;
  /// Whether it goes together with `velora_config`.
  bool supports_velora = true;
  /// Whether it works for `target_parameters`, whose A is [experts · r,
  /// in_features] and B [out_features, r · experts].
  bool supports_target_parameters = false;
};

/// An entry of the table.
struct Initializer {
  std::string name;
  InitFunction function;
  Traits traits = {};
};

/// Adds an initializer, which `init_lora_weights(name)` then means everywhere
/// in the process. May be called from several threads. ValueError if the name
/// is empty or taken.
///
///     torchlora::init::register_initializer(
///         "half_identity",
///         [](torchlora::init::Factors& factors,
///            const torchlora::init::Arguments& arguments) {
///           factors.A.copy_(torch::eye(arguments.r, factors.A.size(1)) / 2);
///           factors.B.zero_();
///         });
///
/// PEFT refuses a file with a name that it does not know, so
/// `adapter_config.json` says true instead. An adapter of an initializer that
/// modifies the base is therefore saved only with
/// `path_initial_model_for_weight_conversion`, as a plain LoRA.
TORCHLORA_API void register_initializer(
    const std::string& name,
    InitFunction function,
    const Traits& traits = {});

/// Returns the initializer that a value of `init_lora_weights` means; case is
/// ignored where PEFT ignores it. The reference stays valid. ValueError lists
/// the known names.
TORCHLORA_API const Initializer& find_initializer(const InitLoraWeights& value);

/// Whether `register_initializer` added the initializer.
TORCHLORA_API bool is_registered(const InitLoraWeights& value);

/// Returns the traits of the configuration's initializer.
inline const Traits& traits_of(const LoraConfig& config) {
  return find_initializer(config.init_lora_weights()).traits;
}

/// Whether a second run of the configuration's initializer changes the base
/// weight in the same way, or not at all.
inline bool is_repeatable(const LoraConfig& config) {
  auto* const repeats = traits_of(config).is_repeatable;
  return !repeats || repeats(config);
}

/// Checks the initializer's own configuration (`corda_config` …): ValueError if
/// the initializer needs it and there is none. Warns about one that belongs to
/// another initializer.
TORCHLORA_API void check_own_config(const LoraConfig& config);

} // namespace torchlora::init
