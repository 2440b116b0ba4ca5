#pragma once

#include <optional>

#include <torch/arg.h>

#include <torchlora/config/init_config.h>
#include <torchlora/config/module_names.h>
#include <torchlora/config/variant_config.h>

namespace torchlora {

/// Configures one LoRA adapter. Names and defaults are those of PEFT's
/// `LoraConfig`.
///
///     auto config = torchlora::LoraConfig(16)
///                       .lora_alpha(32)
///                       .target_modules({"q_proj", "v_proj"});
struct TORCHLORA_API LoraConfig {
  /// Values by pattern, in the order of the file or of the calls: the first
  /// match wins. A pattern is a regular expression that must match the end of
  /// the module name behind a dot; `^` anchors it at the start.
  using Pattern = std::vector<std::pair<std::string, double>>;
  /// Pairs of start and end.
  using LayerRanges = std::vector<std::pair<int64_t, int64_t>>;
  /// Keys of a file that torchlora does not know, with their JSON.
  using UnknownKeys = std::vector<std::pair<std::string, std::string>>;

  /// The other options have PEFT's defaults.
  LoraConfig(int64_t r = 8) : r_(r) {}

  /// ValueError names an option whose value is not allowed, or options that
  /// exclude each other. `get_peft_model` and all that adapt a model call it.
  void validate() const;

  /// Sets `init_lora_weights` to true and drops the initializer's own
  /// configuration, for factors that come from elsewhere.
  LoraConfig& forget_initializer();

  /// Rank.
  TORCH_ARG(int64_t, r);
  /// The update is scaled by lora_alpha / r (by lora_alpha / √r with rsLoRA).
  TORCH_ARG(double, lora_alpha) = 8;
  /// Probability of dropping an element of the update's input in training.
  TORCH_ARG(double, lora_dropout) = 0;
  /// Whether the adapted linear layers store their weight [in, out]. Used by
  /// PEFT only: a saved adapter says it, a layer here knows its own layout.
  TORCH_ARG(bool, fan_in_fan_out) = false;
  /// Scales by lora_alpha / √r. Kalajdzievski 2023, arXiv:2312.03732.
  TORCH_ARG(bool, use_rslora) = false;
  /// Weight-decomposed LoRA, with a trained magnitude per output channel.
  /// arXiv:2402.09353.
  TORCH_ARG(bool, use_dora) = false;
  /// Adds a trained bias to B; for `init_lora_weights` true and false.
  TORCH_ARG(bool, lora_bias) = false;
  /// Turns VeLoRA on; for linear layers, without `use_dora` and "mica".
  TORCH_ARG(std::optional<VeloraConfig>, velora_config);
  /// Turns KaSA on; for linear layers that have no other adapter.
  TORCH_ARG(std::optional<KasaConfig>, kasa_config);
  /// true, false, "gaussian", "olora", "pissa", "pissa_niter_N", "orthogonal",
  /// "mica", "corda", "lora_ga", "loftq", "eva", or a name that
  /// `init::register_initializer` added.
  TORCH_ARG(InitLoraWeights, init_lora_weights) = true;
  /// @{
  /// Configuration of the initializer of that name.
  TORCH_ARG(std::optional<CordaConfig>, corda_config);
  TORCH_ARG(std::optional<LoraGAConfig>, lora_ga_config);
  TORCH_ARG(std::optional<LoftQConfig>, loftq_config);
  TORCH_ARG(std::optional<EvaConfig>, eva_config);
  /// @}

  /// Modules to adapt; none: PEFT's default for the model's type, if it has
  /// one.
  TORCH_ARG(ModuleNames, target_modules);
  /// Stacked expert parameters (`nn::StackedExperts`) to adapt, by full name or
  /// by its end behind a dot: {"experts.gate_up_proj"}.
  TORCH_ARG(std::vector<std::string>, target_parameters);
  /// Modules to leave out. Unlike in PEFT a listed name also leaves out
  /// everything below a module of that name.
  TORCH_ARG(ModuleNames, exclude_modules);
  /// Indices of the layers to adapt; empty: all.
  TORCH_ARG(std::vector<int64_t>, layers_to_transform);
  /// Names of the module lists that `layers_to_transform` counts in; empty: the
  /// first number in the module name is the index.
  TORCH_ARG(std::vector<std::string>, layers_pattern);
  /// [start, end) ranges of the model's layers, which are stacked in this order
  /// before the model is adapted: {{0, 4}, {2, 5}} makes 7 layers of 5. A layer
  /// that occurs again is a clone over the same weights with an adapter of its
  /// own. The layers are a `torch::nn::ModuleList` where PEFT looks for it
  /// (`layers`, `encoder.layer`, `h`, below any `model` and `bert`), which the
  /// model's forward goes through. Only the first adapter of a model may set
  /// it.
  TORCH_ARG(LayerRanges, layer_replication);
  /// Ranks of the modules that have another one than `r`.
  TORCH_ARG(Pattern, rank_pattern);
  /// Alphas of the modules that have another one than `lora_alpha`.
  TORCH_ARG(Pattern, alpha_pattern);

  /// Modules that are trained whole and saved with the adapter, by name or by
  /// its end behind a dot.
  TORCH_ARG(std::vector<std::string>, modules_to_save);
  /// Rows of embedding tables (or of the weights of linear layers) that are
  /// trained and saved with the adapter. A layer that is tied to the table sees
  /// the same rows. The module is an `nn::Embedding` or `nn::Linear`.
  TORCH_ARG(TrainableTokenIndices, trainable_token_indices);
  /// Biases of the base model that the adapter trains and saves: "none", "all"
  /// or "lora_only" (those of the adapted layers).
  TORCH_ARG(std::string, bias) = "none";
  /// Whether `modules_to_save` may name a module whose weight another module
  /// shares; both then have the trained one.
  TORCH_ARG(bool, ensure_weight_tying) = false;
  /// The task, for example "CAUSAL_LM"; empty: none. Decides which heads
  /// `modules_to_save` gets, as in PEFT.
  TORCH_ARG(std::string, task_type);
  /// The base model's name; empty: the model's own name, if it has one.
  TORCH_ARG(std::string, base_model_name_or_path);
  /// The base model's revision; empty: none.
  TORCH_ARG(std::string, revision);
  /// Whether the adapter is frozen from the start.
  TORCH_ARG(bool, inference_mode) = false;
  /// Saved again with the adapter.
  TORCH_ARG(UnknownKeys, unknown_keys);
};

} // namespace torchlora
