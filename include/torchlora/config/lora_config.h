#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <torch/arg.h>

#include <torchlora/config/init_config.h>
#include <torchlora/export.h>

namespace torchlora {

/// PEFT's `list[str] | str | None`: names of modules (matched exactly or
/// behind a dot), a regular expression in Python's syntax that must match the
/// whole name, or nothing. As `target_modules` the string "all-linear" is
/// special.
class TORCHLORA_API ModuleNames {
 public:
  ModuleNames() = default;
  /// @{
  /// A regular expression, or "all-linear".
  ModuleNames(const char* regex) : value_(std::string(regex)) {}
  ModuleNames(std::string regex) : value_(std::move(regex)) {}
  /// @}

  /// @{
  /// A list of names.
  ModuleNames(std::vector<std::string> names) : value_(std::move(names)) {}
  ModuleNames(std::initializer_list<std::string> names)
      : value_(std::vector<std::string>(names)) {}
  /// @}

  /// @{
  /// Which of the three it is.
  bool is_none() const {
    return std::holds_alternative<std::monostate>(value_);
  }
  bool is_regex() const {
    return std::holds_alternative<std::string>(value_);
  }
  bool is_list() const {
    return std::holds_alternative<std::vector<std::string>>(value_);
  }
  /// @}

  /// @{
  /// The value; `std::bad_variant_access` if it is of another kind.
  const std::string& regex() const {
    return std::get<std::string>(value_);
  }
  const std::vector<std::string>& list() const {
    return std::get<std::vector<std::string>>(value_);
  }
  /// @}

  /// Equal, ignoring case, to "all-linear".
  bool is_all_linear() const;

  friend bool operator==(const ModuleNames&, const ModuleNames&) = default;

 private:
  std::variant<std::monostate, std::string, std::vector<std::string>> value_;
};

/// PEFT's `init_lora_weights`: true (A Kaiming-uniform, B zero), false (both
/// random; for tests) or the name of an initialiser ("gaussian").
class TORCHLORA_API InitLoraWeights {
 public:
  /// @{
  /// A flag, or a name.
  InitLoraWeights(bool value = true) : value_(value) {}
  InitLoraWeights(const char* name) : value_(std::string(name)) {}
  InitLoraWeights(std::string name) : value_(std::move(name)) {}
  /// @}

  /// A name, not a flag.
  bool is_name() const {
    return std::holds_alternative<std::string>(value_);
  }
  /// @{
  /// The value; `std::bad_variant_access` if it is of the other kind.
  bool flag() const {
    return std::get<bool>(value_);
  }
  const std::string& name() const {
    return std::get<std::string>(value_);
  }
  /// @}
  friend bool operator==(const InitLoraWeights&, const InitLoraWeights&) =
      default;

 private:
  std::variant<bool, std::string> value_;
};

/// VeLoRA, arXiv:2405.17991: for the gradient of A a layer keeps, instead of
/// its input, one number for each group of features, the group's projection
/// on a vector. Outputs and all other gradients are those of LoRA. The names
/// and defaults of PEFT's `VeloraConfig`.
struct TORCHLORA_API VeloraConfig {
  /// The rest as in PEFT.
  VeloraConfig(int64_t num_groups = 64) : num_groups_(num_groups) {}

  /// ValueError names the option that cannot be right.
  void validate() const;

  friend bool operator==(const VeloraConfig&, const VeloraConfig&) = default;

  /// Into which the features of the input are divided.
  TORCH_ARG(int64_t, num_groups);
  /// Of the rebuilt input.
  TORCH_ARG(double, scale) = 1;
  /// What the vector is: "batch_average" of the groups of each batch,
  /// "batch_average_once" of the first, or "random".
  TORCH_ARG(std::string, init_type) = "batch_average";
};

/// PEFT's `list[int] | dict[str, list[int]] | None`: rows of the model's input
/// embeddings, of modules by their names or the ends of them behind a dot, or
/// none.
///
///     config.trainable_token_indices({1, 5, 9});
///     config.trainable_token_indices({{"embed_tokens", {1, 5, 9}}});
class TORCHLORA_API TrainableTokenIndices {
 public:
  /// @{
  /// Rows, and rows by module.
  using Indices = std::vector<int64_t>;
  using ByModule = std::vector<std::pair<std::string, Indices>>;
  /// @}

  TrainableTokenIndices() = default;
  /// @{
  /// Rows of the input embeddings, or by module.
  TrainableTokenIndices(Indices indices) : value_(std::move(indices)) {}
  TrainableTokenIndices(ByModule modules) : value_(std::move(modules)) {}
  TrainableTokenIndices(std::initializer_list<int64_t> indices)
      : value_(Indices(indices)) {}
  TrainableTokenIndices(std::initializer_list<ByModule::value_type> modules)
      : value_(ByModule(modules)) {}
  /// @}

  /// Nothing, or no module.
  bool is_none() const {
    return std::holds_alternative<std::monostate>(value_) ||
        (!is_list() && by_module().empty());
  }
  /// Rows without a module's name.
  bool is_list() const {
    return std::holds_alternative<Indices>(value_);
  }
  /// @{
  /// The value; `std::bad_variant_access` if it is of another kind.
  const Indices& list() const {
    return std::get<Indices>(value_);
  }
  const ByModule& by_module() const {
    return std::get<ByModule>(value_);
  }
  /// @}

  friend bool operator==(
      const TrainableTokenIndices&,
      const TrainableTokenIndices&) = default;

 private:
  std::variant<std::monostate, Indices, ByModule> value_;
};

/// Configuration of one LoRA adapter; the names and defaults of PEFT's
/// `LoraConfig`.
///
///     auto config = torchlora::LoraConfig(16)
///                       .lora_alpha(32)
///                       .target_modules({"q_proj", "v_proj"});
struct TORCHLORA_API LoraConfig {
  /// pattern → value, in the order of the file or of the calls: first match
  /// wins. A pattern is a regular expression that must match the end of the
  /// module name behind a dot; `^` anchors it at the start.
  using Pattern = std::vector<std::pair<std::string, double>>;
  /// start, end
  using LayerRanges = std::vector<std::pair<int64_t, int64_t>>;

  /// Rank `r`, the rest as in PEFT.
  LoraConfig(int64_t r = 8) : r_(r) {}

  /// Back to `init_lora_weights` true, for factors that come from elsewhere.
  LoraConfig& forget_initializer();

  /// Rank.
  TORCH_ARG(int64_t, r);
  /// The update is scaled by lora_alpha / r (by lora_alpha / √r with rsLoRA).
  TORCH_ARG(double, lora_alpha) = 8;
  /// Probability of dropping an element of the update's input in training.
  TORCH_ARG(double, lora_dropout) = 0;
  /// Set where an adapter is saved whose linear layers all store their weight
  /// [in, out], for PEFT; here the layout is the layer's own affair.
  TORCH_ARG(bool, fan_in_fan_out) = false;
  /// Scales by lora_alpha / √r. Kalajdzievski 2023, arXiv:2312.03732.
  TORCH_ARG(bool, use_rslora) = false;
  /// Weight-decomposed LoRA, arXiv:2402.09353: a trained magnitude a channel.
  TORCH_ARG(bool, use_dora) = false;
  /// A trained bias on B; with the initialisers true and false only.
  TORCH_ARG(bool, lora_bias) = false;
  /// For linear layers, without use_dora and "mica".
  TORCH_ARG(std::optional<VeloraConfig>, velora_config);
  /// true, false, "gaussian", "olora", "pissa", "pissa_niter_N", "orthogonal",
  /// "mica", "corda", "lora_ga", "loftq", "eva" (`init/initializer.h`).
  TORCH_ARG(InitLoraWeights, init_lora_weights) = true;
  /// @{
  /// Of the initialisers of these names.
  TORCH_ARG(std::optional<CordaConfig>, corda_config);
  TORCH_ARG(std::optional<LoraGAConfig>, lora_ga_config);
  TORCH_ARG(std::optional<LoftQConfig>, loftq_config);
  TORCH_ARG(std::optional<EvaConfig>, eva_config);
  /// @}

  /// Which modules to adapt; none: the default for the model's type, if PEFT
  /// has one.
  TORCH_ARG(ModuleNames, target_modules);
  /// Stacked expert parameters (`nn::StackedExperts`) to adapt, by full name or
  /// by its end behind a dot: {"experts.gate_up_proj"}.
  TORCH_ARG(std::vector<std::string>, target_parameters);
  /// Modules to leave out. Unlike in PEFT a listed name also leaves out
  /// everything below a module of that name.
  TORCH_ARG(ModuleNames, exclude_modules);
  /// Layer indices to adapt (empty: all) and the name of the module list that
  /// holds the layers (empty: the first number in the module name).
  TORCH_ARG(std::vector<int64_t>, layers_to_transform);
  /// See `layers_to_transform`.
  TORCH_ARG(std::vector<std::string>, layers_pattern);
  /// [start, end) ranges of the model's layers that are stacked before it is
  /// adapted: {{0, 4}, {2, 5}} makes 7 layers of 5. Those that occur again are
  /// clones over the same weights, with adapters of their own. The layers are a
  /// `torch::nn::ModuleList` where PEFT looks for it (`layers`,
  /// `encoder.layer`, `h`, below any `model` and `bert`) and the model's
  /// forward goes through it; of the first adapter of a model.
  TORCH_ARG(LayerRanges, layer_replication);
  /// @{
  /// Ranks and alphas of modules that have others than `r` and `lora_alpha`.
  TORCH_ARG(Pattern, rank_pattern);
  TORCH_ARG(Pattern, alpha_pattern);
  /// @}

  /// Modules that are trained whole and saved with the adapter, by their names
  /// or the ends of them behind a dot.
  TORCH_ARG(std::vector<std::string>, modules_to_save);
  /// Rows of embedding tables (or of the weights of linear layers) that are
  /// trained and saved with the adapter; a layer that is tied to the table sees
  /// the same rows. The module is an `nn::Embedding` or `nn::Linear`.
  TORCH_ARG(TrainableTokenIndices, trainable_token_indices);
  /// Which biases of the base model the adapter trains and saves: "none",
  /// "all" or "lora_only" (those of the adapted layers).
  TORCH_ARG(std::string, bias) = "none";
  /// Whether `modules_to_save` may name a module whose weight is another's
  /// too; both are then the trained one.
  TORCH_ARG(bool, ensure_weight_tying) = false;
  /// "CAUSAL_LM" …, written to the file; empty: none.
  TORCH_ARG(std::string, task_type);
  /// Written to the file; empty: the model's own name, if it has one.
  TORCH_ARG(std::string, base_model_name_or_path);
  /// Of the base model, written to the file; empty: none.
  TORCH_ARG(std::string, revision);
  /// Whether the adapter is frozen from the start; written to the file.
  TORCH_ARG(bool, inference_mode) = false;
  /// Keys of a file that torchlora does not know, with their JSON; they are
  /// written again.
  using UnknownKeys = std::vector<std::pair<std::string, std::string>>;
  /// See `UnknownKeys`.
  TORCH_ARG(UnknownKeys, unknown_keys);
};

} // namespace torchlora
