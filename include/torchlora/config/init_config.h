#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <variant>

#include <torch/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// PEFT's `init_lora_weights`: true (A random, B zero), false (both random; for
/// tests) or the name of an initializer (`init/initializer.h`).
class TORCHLORA_API InitLoraWeights {
 public:
  /// @{
  /// A flag, or a name.
  InitLoraWeights(bool value = true) : value_(value) {}
  InitLoraWeights(const char* name) : value_(std::string(name)) {}
  InitLoraWeights(std::string name) : value_(std::move(name)) {}
  /// @}

  /// Whether it is a name.
  bool is_name() const {
    return std::holds_alternative<std::string>(value_);
  }
  /// @{
  /// The value. `std::bad_variant_access` if it is of the other kind.
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

/// Configures the initializer "corda". PEFT's `CordaConfig`, without its files
/// of statistics and of decompositions.
struct TORCHLORA_API CordaConfig {
  CordaConfig() = default;
  /// ValueError names an option whose value is not allowed.
  void validate() const;
  /// "ipm" (instruction-previewed: the first components learn the task) or
  /// "kpm" (knowledge-preserved: the last ones do).
  TORCH_ARG(std::string, corda_method) = "ipm";
};

/// Configures the initializer "lora_ga". PEFT's `LoraGAConfig`.
struct TORCHLORA_API LoraGAConfig {
  LoraGAConfig() = default;
  /// ValueError names an option whose value is not allowed.
  void validate() const;
  /// The singular vectors of the gradient that A and B start from: "ArB2r" (A
  /// the first r, B the next r), "A2rBr" (the other way round), "ArBr" (in
  /// turn) or "random".
  TORCH_ARG(std::string, direction) = "ArB2r";
  /// "stable" (B times out_features^¼ / √stable_gamma), "weight_svd" (B as
  /// large as the base weight), "gd_scale" (both divided by the scaling) or
  /// "unit".
  TORCH_ARG(std::string, scale) = "stable";
  /// Used by the scale "stable".
  TORCH_ARG(int64_t, stable_gamma) = 16;
};

/// Configures the initializer "loftq". PEFT's `LoftQConfig`.
struct TORCHLORA_API LoftQConfig {
  LoftQConfig() = default;
  /// ValueError names an option whose value is not allowed.
  void validate() const;
  /// 4 (NF4 in blocks of 64) or 8 (int8 per row).
  TORCH_ARG(int64_t, loftq_bits) = 4;
  /// How often quantization and decomposition alternate.
  TORCH_ARG(int64_t, loftq_iter) = 1;
};

/// Configures the initializer "eva". PEFT's `EvaConfig`; its label mask is an
/// argument of `initialize_lora_eva_weights`, which chooses the rows.
struct TORCHLORA_API EvaConfig {
  EvaConfig() = default;
  /// ValueError names an option whose value is not allowed.
  void validate() const;
  /// The rank of a layer may grow to rho · r; 1 leaves all ranks at r.
  TORCH_ARG(double, rho) = 2;
  /// A component has converged when its cosine with the component of the batch
  /// before is at least tau.
  TORCH_ARG(double, tau) = 0.99;
  /// Whether components are divided by the roots of their singular values.
  TORCH_ARG(bool, whiten) = false;
  /// Whether lora_alpha grows with the rank of a layer.
  TORCH_ARG(bool, adjust_scaling_factors) = true;
};

} // namespace torchlora
