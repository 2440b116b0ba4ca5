#pragma once

// Initializers of the factors A and B: what `init_lora_weights` names.
//
// Each one is an entry of a table: its name, a function that overwrites the
// factors of one layer, and traits. The rest of the library asks the traits
// and never compares names. The functions are in the headers of this folder,
// one per initializer; `register_initializer` adds a function of the user's to
// the same table.

#include <functional>

#include <torchlora/types.h>

#include <torchlora/config/lora_config.h>

namespace torchlora::init {

/// The factors of one adapter in one layer, which an initializer overwrites.
/// They are matrices, fp32 on the CPU. For a convolution in_features includes
/// the kernel elements.
struct Factors {
  /// Factor A, [r, in_features].
  Tensor A;
  /// Factor B, [out_features, r].
  Tensor B;
  /// The bias of B, [out_features], if the adapter has `lora_bias`; undefined
  /// otherwise.
  Tensor bias = {};
  /// The new base weight [out_features, in_features], if the initializer
  /// (LoftQ) replaces it: the initializer sets this field, and `LoraLayer`
  /// writes it to the layer.
  Tensor base_weight = {};
};

/// The inputs of an initializer: the configuration, the rank and scaling in
/// this layer, the base weight and statistics.
struct Arguments {
  /// The configuration of the adapter.
  const LoraConfig& config;
  /// The rank in this layer.
  int64_t r;
  /// The number that the layer multiplies B A by.
  double scaling;
  /// The base weight [out_features, in_features], in the dtype and on the
  /// device of the layer. The initializer must not write to it.
  Tensor base_weight;
  /// Statistics collected from sample data for this layer
  /// (`InjectOptions::init_statistics`); undefined if there are none. For
  /// "corda" the covariance [in_features, in_features] of the layer's input,
  /// for "lora_ga" the mean gradient [out_features, in_features] of the base
  /// weight.
  Tensor statistics = {};
  /// Whether values from a file will overwrite the factors. An initializer then
  /// draws nothing; it only computes what changes the base weight, if anything
  /// does.
  bool is_loaded = false;
};

/// A function that overwrites the factors of one layer. On entry `factors`
/// holds what the layer constructed (a linear layer draws A and B as
/// `torch::nn::Linear` draws its weight). The library's functions draw from the
/// CPU's default generator in PEFT's order, so a seed gives PEFT's factors.
using InitFunction =
    std::function<void(Factors& factors, const Arguments& arguments)>;

/// Properties of an initializer that the library asks for instead of comparing
/// names.
struct Traits {
  /// Whether the base weight changes when the adapter is created, so that the
  /// adapted layer starts as the base layer. `LoraLayer` then writes
  /// `Factors::base_weight` to it if that is set, or else subtracts scaling · B
  /// A. The adapter must be the first of each of its layers.
  bool modifies_base = false;
  /// For an initializer with `modifies_base`: returns whether a second run on
  /// the original weight changes it in the same way, so that a saved adapter
  /// loads onto the original base. nullptr means always.
  bool (*is_repeatable)(const LoraConfig& config) = nullptr;
  /// For an initializer with `modifies_base`: whether
  /// `path_initial_model_for_weight_conversion` can save its adapter as a plain
  /// LoRA of the original base. False for one that sets `Factors::base_weight`.
  bool is_convertible = true;
  /// Whether the adapter trains B. False: B stays frozen and only A is trained.
  bool trains_B = true;
  /// Whether the initializer needs statistics from sample data
  /// (`tools/preprocess.h`).
  bool needs_data = false;
  /// Whether the initializer requires its own configuration in `LoraConfig`,
  /// such as `loftq_config`.
  bool needs_config = false;
  /// Whether the initializer draws A and zeroes B independently of the weight.
  /// An embedding then uses `embedding_init` instead, which zeroes A and draws
  /// B, as in PEFT.
  bool draws_A = false;
  /// Whether the initializer sets `Factors::bias`, so that `lora_bias` may be
  /// used with it.
  bool supports_lora_bias = false;
  /// Whether the initializer may be used together with `velora_config`.
  bool supports_velora = true;
  /// Whether the initializer works for `target_parameters` (stacked experts),
  /// whose factors are A [experts · r, in_features] and B [out_features, r ·
  /// experts].
  bool supports_target_parameters = false;
};

/// One entry of the table of initializers: name, function and traits.
struct Initializer {
  std::string name;
  InitFunction function;
  Traits traits = {};
};

/// Adds an initializer to the table. `init_lora_weights(name)` then selects it
/// everywhere in the process. Thread-safe. ValueError if the name is empty or
/// taken.
///
///     torchlora::init::register_initializer(
///         "half_identity",
///         [](torchlora::init::Factors& factors,
///            const torchlora::init::Arguments& arguments) {
///           factors.A.copy_(torch::eye(arguments.r, factors.A.size(1)) / 2);
///           factors.B.zero_();
///         });
///
/// PEFT rejects a file with a name that it does not know, so
/// `adapter_config.json` stores true instead. For the same reason an adapter
/// whose initializer has `modifies_base` can be saved only as a plain LoRA,
/// with `path_initial_model_for_weight_conversion`.
TORCHLORA_API void register_initializer(
    const std::string& name,
    InitFunction function,
    const Traits& traits = {});

/// Returns the table entry that a value of `init_lora_weights` selects,
/// ignoring case where PEFT does. The reference stays valid. ValueError for an
/// unknown name; the message lists the known ones.
TORCHLORA_API const Initializer& find_initializer(const InitLoraWeights& value);

/// Returns whether `value` names an initializer that PEFT does not know, as
/// every one that `register_initializer` added. An adapter's file says `true`
/// then.
TORCHLORA_API bool is_unknown_to_peft(const InitLoraWeights& value);

/// Returns the traits of the initializer that `config.init_lora_weights()`
/// selects.
inline const Traits& traits_of(const LoraConfig& config) {
  return find_initializer(config.init_lora_weights()).traits;
}

/// Returns whether a second run of the configuration's initializer on the
/// original base weight changes it in the same way, or not at all. A saved
/// adapter loads only then.
inline bool is_repeatable(const LoraConfig& config) {
  auto* const repeats = traits_of(config).is_repeatable;
  return !repeats || repeats(config);
}

/// Throws ValueError if the initializer of `config` needs its own configuration
/// (such as `loftq_config`) and `config` has none. Warns if `config` has one
/// that belongs to another initializer.
TORCHLORA_API void check_own_config(const LoraConfig& config);

} // namespace torchlora::init
