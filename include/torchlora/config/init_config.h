#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include <torchlora/detail/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// A value of PEFT's option `init_lora_weights`: true (A random, B zero), false
/// (A and B random, for tests) or the name of an initializer
/// (`init/initializer.h`).
class TORCHLORA_API InitLoraWeights {
 public:
  /// @{
  /// Stores a flag (default: true), or the name of an initializer.
  InitLoraWeights() = default;
  template <std::same_as<bool> Flag> // no number and no pointer
  InitLoraWeights(Flag value) : value_(value) {}
  InitLoraWeights(const char* name) : value_(std::string(name)) {}
  InitLoraWeights(std::string name) : value_(std::move(name)) {}
  /// @}

  /// Returns whether the value is a name and not a flag.
  bool is_name() const {
    return std::holds_alternative<std::string>(value_);
  }
  /// @{
  /// Return the stored flag, or the stored name. `std::bad_variant_access` if
  /// the value is of the other kind.
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
  std::variant<bool, std::string> value_ = true;
};

/// The options of the initializer "corda". PEFT's `CordaConfig`, without the
/// files in which PEFT stores statistics and decompositions.
struct TORCHLORA_API CordaConfig {
  CordaConfig() = default;
  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;
  /// Which singular components the adapter trains: "ipm"
  /// (instruction-previewed: the r largest, which learn the task best) or "kpm"
  /// (knowledge-preserved: the r smallest, which disturb the model's knowledge
  /// least).
  TORCHLORA_ARG(std::string, corda_method) = "ipm";
};

/// The options of the initializer "lora_ga". PEFT's `LoraGAConfig`.
struct TORCHLORA_API LoraGAConfig {
  LoraGAConfig() = default;
  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;
  /// Which of the first 2 r singular vectors of the gradient A and B start
  /// from: "ArB2r" (A the first r, B the next r), "A2rBr" (B the first r, A the
  /// next r), "ArBr" (B and A alternate) or "random" (the same random r for A
  /// and B).
  TORCHLORA_ARG(std::string, direction) = "ArB2r";
  /// How the factors are scaled. "stable" multiplies B by out_features^¼ /
  /// √stable_gamma and leaves A. "weight_svd" multiplies B by the largest
  /// singular value of the base weight, divided by that singular value of the
  /// gradient whose left vector is B's first column. "gd_scale" divides A and B
  /// by `scaling`. "unit" leaves both as they are.
  TORCHLORA_ARG(std::string, scale) = "stable";
  /// The number stable_gamma by whose square root the scale "stable" divides B.
  /// Other scales ignore it.
  TORCHLORA_ARG(int64_t, stable_gamma) = 16;
};

/// The options of the initializer "loftq". PEFT's `LoftQConfig`.
struct TORCHLORA_API LoftQConfig {
  LoftQConfig() = default;
  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;
  /// Bits per value of the quantized base weight: 4 (NF4 in blocks of 64
  /// values) or 8 (int8 with one scale per row).
  TORCHLORA_ARG(int64_t, loftq_bits) = 4;
  /// How many times the initializer alternates quantizing the base weight and
  /// fitting B A to the rest.
  TORCHLORA_ARG(int64_t, loftq_iter) = 1;
};

/// The options of the initializer "eva". PEFT's `EvaConfig`, except that its
/// label mask is the argument `prepare_layer_inputs` of
/// `initialize_lora_eva_weights`.
struct TORCHLORA_API EvaConfig {
  EvaConfig() = default;
  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;
  /// The largest factor by which the rank of a layer may grow: up to rho · r. 1
  /// leaves all ranks at r.
  TORCHLORA_ARG(double, rho) = 2;
  /// The cosine similarity to the previous batch's component from which a
  /// principal component counts as converged.
  TORCHLORA_ARG(double, tau) = 0.99;
  /// Whether each principal component is divided by the square root of its
  /// singular value before it becomes a row of A.
  TORCHLORA_ARG(bool, whiten) = false;
  /// Whether a layer whose rank changes gets a lora_alpha that changes by the
  /// same ratio, so that its scaling stays.
  TORCHLORA_ARG(bool, adjust_scaling_factors) = true;
};

} // namespace torchlora
