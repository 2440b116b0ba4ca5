#pragma once

#include <concepts>
#include <optional>

#include <torchlora/detail/arg.h>

#include <torchlora/config/init_config.h>
#include <torchlora/config/module_names.h>
#include <torchlora/config/variant_config.h>

namespace torchlora {

/// The configuration of one LoRA adapter. Names and defaults are those of
/// PEFT's `LoraConfig`.
///
///     auto config = torchlora::LoraConfig(16)
///                       .lora_alpha(32)
///                       .target_modules({"q_proj", "v_proj"});
struct TORCHLORA_API LoraConfig {
  /// Pairs of a pattern and a value; the value of the first pattern that
  /// matches a module's name applies. A pattern is a regular expression that
  /// must match the whole name or its end after a dot; `^` requires the whole
  /// name.
  using Pattern = std::vector<std::pair<std::string, double>>;
  /// Ranges of layer indices, each a pair [start, end).
  using LayerRanges = std::vector<std::pair<int64_t, int64_t>>;
  /// Pairs of a key of adapter_config.json that torchlora does not know and its
  /// value as JSON text.
  using UnknownKeys = std::vector<std::pair<std::string, std::string>>;

  /// @{
  /// Sets the rank (default: 8). The other options have PEFT's defaults. A flag
  /// is no rank.
  LoraConfig() = default;
  explicit LoraConfig(int64_t r) : r_(r) {}
  template <std::same_as<bool> Flag>
  explicit LoraConfig(Flag r) = delete;
  /// @}

  /// Throws ValueError if an option has a value that is not allowed or if two
  /// options exclude each other. `get_peft_model` and every function that adds
  /// an adapter call it.
  void validate() const;

  /// Sets `init_lora_weights` to true and removes the initializer's own
  /// configuration (such as `loftq_config`), because the factors come from
  /// elsewhere. Returns this configuration.
  LoraConfig& forget_initializer() &;
  /// Makes it a configuration of plain LoRA: without `use_dora`,
  /// `velora_config` and `kasa_config`.
  LoraConfig& forget_variant() &;

  /// The rank r of the update: A has r rows and B has r columns.
  TORCHLORA_ARG(int64_t, r) = 8;
  /// The numerator of the scaling: B A is multiplied by lora_alpha / r, or by
  /// lora_alpha / √r with `use_rslora`.
  TORCHLORA_ARG(double, lora_alpha) = 8;
  /// The probability with which dropout zeroes an element of the update's input
  /// in training.
  TORCHLORA_ARG(double, lora_dropout) = 0;
  /// Whether the adapted linear layers store their weight as [in_features,
  /// out_features]. torchlora does not use it, as each layer knows its layout;
  /// it saves the value for PEFT.
  TORCHLORA_ARG(bool, fan_in_fan_out) = false;
  /// Whether B A is multiplied by lora_alpha / √r instead of lora_alpha / r
  /// (rsLoRA). Kalajdzievski 2023, arXiv:2312.03732.
  TORCHLORA_ARG(bool, use_rslora) = false;
  /// Whether the adapter is a DoRA, weight-decomposed LoRA with a trained
  /// magnitude per output channel. arXiv:2402.09353.
  TORCHLORA_ARG(bool, use_dora) = false;
  /// Whether B has a trained bias [out_features]. Requires `init_lora_weights`
  /// true, false or an initializer with the trait `supports_lora_bias`; not
  /// with `use_dora` or with `bias` other than "none".
  TORCHLORA_ARG(bool, lora_bias) = false;
  /// Turns VeLoRA on. Only for linear layers; not with `use_dora` or the
  /// initializer "mica".
  TORCHLORA_ARG(std::optional<VeloraConfig>, velora_config);
  /// Turns KaSA on. Only for linear layers that have no other adapter.
  TORCHLORA_ARG(std::optional<KasaConfig>, kasa_config);
  /// How A and B start: true, false, "gaussian", "olora", "pissa",
  /// "pissa_niter_N", "orthogonal", "mica", "corda", "lora_ga", "loftq", "eva",
  /// or a name that `init::register_initializer` added.
  TORCHLORA_ARG(InitLoraWeights, init_lora_weights) = true;
  /// @{
  /// The options of the initializers "corda", "lora_ga", "loftq" and "eva". Set
  /// the one that belongs to `init_lora_weights`.
  TORCHLORA_ARG(std::optional<CordaConfig>, corda_config);
  TORCHLORA_ARG(std::optional<LoraGAConfig>, lora_ga_config);
  TORCHLORA_ARG(std::optional<LoftQConfig>, loftq_config);
  TORCHLORA_ARG(std::optional<EvaConfig>, eva_config);
  /// @}

  /// The modules to adapt. Default: the modules that PEFT adapts in a model of
  /// this `model_type`, if PEFT has a default for it.
  TORCHLORA_ARG(ModuleNames, target_modules);
  /// The stacked expert parameters (`nn::StackedExperts`) to adapt, each by its
  /// full name or by the end of the name after a dot: {"experts.gate_up_proj"}.
  TORCHLORA_ARG(std::vector<std::string>, target_parameters);
  /// The modules not to adapt. A name also excludes every module inside a
  /// module of that name (in PEFT it does not).
  TORCHLORA_ARG(ModuleNames, exclude_modules);
  /// The indices of the model's layers in which modules are adapted. Empty: all
  /// layers.
  TORCHLORA_ARG(std::vector<int64_t>, layers_to_transform);
  /// The names of the module lists whose indices `layers_to_transform` refers
  /// to, such as "layers". Empty: the first number in a module's name is its
  /// index.
  TORCHLORA_ARG(std::vector<std::string>, layers_pattern);
  /// The ranges [start, end) of layers that the model's layer list is rebuilt
  /// from before it is adapted: {{0, 4}, {2, 5}} makes 7 layers out of 5. A
  /// repeated layer shares the weights of the original and has its own adapter.
  /// The list is a `torch::nn::ModuleList` where PEFT looks for it (`layers`,
  /// `encoder.layer`, `h`, below any `model` and `bert`), and the model's
  /// forward must iterate over it. Only the first adapter of a model may set
  /// it.
  TORCHLORA_ARG(LayerRanges, layer_replication);
  /// Ranks for modules whose rank is not `r`, by pattern of the module's name.
  TORCHLORA_ARG(Pattern, rank_pattern);
  /// Alphas for modules whose alpha is not `lora_alpha`, by pattern of the
  /// module's name.
  TORCHLORA_ARG(Pattern, alpha_pattern);

  /// Modules whose parameters are all trained, and saved with the adapter. Each
  /// entry is a module's name or the end of it after a dot.
  TORCHLORA_ARG(std::vector<std::string>, modules_to_save);
  /// Rows of embedding tables, or of the weights of linear layers, that are
  /// trained and saved with the adapter. A layer that is tied to the table uses
  /// the same trained rows. The module must be a `torchlora::nn::Embedding` or
  /// `Linear`.
  TORCHLORA_ARG(TrainableTokenIndices, trainable_token_indices);
  /// Which biases of the base model the adapter trains and saves: "none",
  /// "all", or "lora_only" for the biases of the adapted layers.
  TORCHLORA_ARG(std::string, bias) = "none";
  /// Whether `modules_to_save` may name a module that shares its weight with
  /// another module. Both modules then use the trained weight. False: an error.
  TORCHLORA_ARG(bool, ensure_weight_tying) = false;
  /// The task of the model in PEFT's terms, for example "CAUSAL_LM"; empty:
  /// none. For a classification task the model's heads are added to
  /// `modules_to_save`, as in PEFT.
  TORCHLORA_ARG(std::string, task_type);
  /// The base model's name or path in the saved configuration. Empty: the name
  /// that the model gives (`nn::PretrainedModel`).
  TORCHLORA_ARG(std::string, base_model_name_or_path);
  /// The revision of the base model in the saved configuration; empty: none.
  TORCHLORA_ARG(std::string, revision);
  /// Whether a new adapter is frozen instead of trainable.
  TORCHLORA_ARG(bool, inference_mode) = false;
  /// The keys of adapter_config.json that torchlora does not know. They are
  /// saved again with the adapter.
  TORCHLORA_ARG(UnknownKeys, unknown_keys);
};

} // namespace torchlora
