#pragma once

#include <cstdint>
#include <string>

#include <torch/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// Configures VeLoRA, which saves memory in training: for the gradient of A a
/// layer keeps one number per group of input features, the projection of the
/// group on a vector, in place of the input. Outputs and all other gradients
/// are those of LoRA. PEFT's `VeloraConfig`. arXiv:2405.17991.
struct TORCHLORA_API VeloraConfig {
  /// The other options have PEFT's defaults.
  VeloraConfig(int64_t num_groups = 64) : num_groups_(num_groups) {}

  /// ValueError names an option whose value is not allowed.
  void validate() const;

  friend bool operator==(const VeloraConfig&, const VeloraConfig&) = default;

  /// Number of groups of input features.
  TORCH_ARG(int64_t, num_groups);
  /// Factor of the input that is rebuilt from the projections.
  TORCH_ARG(double, scale) = 1;
  /// The vector: "batch_average" (the mean of the groups of each batch),
  /// "batch_average_once" (that of the first batch) or "random".
  TORCH_ARG(std::string, init_type) = "batch_average";
};

/// Configures KaSA (`lora/variants/kasa.h`): the weights of its regularizers,
/// which act only if the training loop adds `kasa_loss`. PEFT's `KasaConfig`.
struct TORCHLORA_API KasaConfig {
  KasaConfig() = default;

  /// ValueError names an option whose value is not allowed.
  void validate() const;

  friend bool operator==(const KasaConfig&, const KasaConfig&) = default;

  /// Of the squares of the diagonal.
  TORCH_ARG(double, beta) = 1e-4;
  /// Of the distance of the factors from orthogonal ones.
  TORCH_ARG(double, gamma) = 1e-3;
};

} // namespace torchlora
