#pragma once

#include <cstdint>
#include <string>

#include <torchlora/detail/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// The options of VeLoRA, which saves memory in training. For the gradient of A
/// a layer stores one number per group of input features, the projection of the
/// group on a vector, instead of its input. Outputs and all other gradients are
/// those of LoRA. PEFT's `VeloraConfig`. arXiv:2405.17991.
struct TORCHLORA_API VeloraConfig {
  /// @{
  /// Sets the number of groups (default: 64). The other options have PEFT's
  /// defaults.
  VeloraConfig() = default;
  explicit VeloraConfig(int64_t num_groups) : num_groups_(num_groups) {}
  /// @}

  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;

  friend bool operator==(const VeloraConfig&, const VeloraConfig&) = default;

  /// The number of groups into which VeLoRA splits the input features of a
  /// layer.
  TORCHLORA_ARG(int64_t, num_groups) = 64;
  /// The number that backward multiplies the input by when it approximates it
  /// from the stored projections.
  TORCHLORA_ARG(double, scale) = 1;
  /// Which vector the groups are projected on: "batch_average" (the normalized
  /// mean group of each batch), "batch_average_once" (that of the first batch,
  /// then fixed) or "random" (fixed).
  TORCHLORA_ARG(std::string, init_type) = "batch_average";
};

/// The options of KaSA (`lora/variants/kasa.h`): the weights of its two
/// regularizers. They have an effect only if the training loop adds `kasa_loss`
/// to its loss. PEFT's `KasaConfig`.
struct TORCHLORA_API KasaConfig {
  KasaConfig() = default;

  /// Throws ValueError if an option has a value that is not allowed. The
  /// message names the option.
  void validate() const;

  friend bool operator==(const KasaConfig&, const KasaConfig&) = default;

  /// The weight of the regularizer ‖d‖², which penalizes large values of the
  /// diagonal d.
  TORCHLORA_ARG(double, beta) = 1e-4;
  /// The weight of the regularizer ‖Bᵀ B − I‖ + ‖A Aᵀ − I‖, which penalizes B
  /// columns and A rows that are not orthonormal.
  TORCHLORA_ARG(double, gamma) = 1e-3;
};

} // namespace torchlora
