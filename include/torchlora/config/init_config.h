#pragma once

#include <cstdint>
#include <string>

#include <torch/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// Of `init_lora_weights` "corda". PEFT's `CordaConfig` (its files of
/// statistics and of decompositions have no counterpart).
struct TORCHLORA_API CordaConfig {
  CordaConfig() = default;
  /// "ipm" (instruction-previewed: the leading components learn the task) or
  /// "kpm" (knowledge-preserved: the last ones do).
  TORCH_ARG(std::string, corda_method) = "ipm";
};

/// Of `init_lora_weights` "lora_ga". PEFT's `LoraGAConfig`.
struct TORCHLORA_API LoraGAConfig {
  LoraGAConfig() = default;
  /// Which singular vectors of the gradient A and B get: "ArB2r" (A the first
  /// r, B the next), "A2rBr", "ArBr" (in turn) or "random".
  TORCH_ARG(std::string, direction) = "ArB2r";
  /// "stable" (B · out_features^¼ / √stable_gamma), "weight_svd" (B as large
  /// as the base weight), "gd_scale" (both / scaling) or "unit".
  TORCH_ARG(std::string, scale) = "stable";
  /// Of the scale "stable".
  TORCH_ARG(int64_t, stable_gamma) = 16;
};

/// Of `init_lora_weights` "loftq". PEFT's `LoftQConfig`.
struct TORCHLORA_API LoftQConfig {
  LoftQConfig() = default;
  /// 4 (NF4 in blocks of 64) or 8 (int8 by rows).
  TORCH_ARG(int64_t, loftq_bits) = 4;
  /// Alternations of quantising and decomposing.
  TORCH_ARG(int64_t, loftq_iter) = 1;
};

/// Of `init_lora_weights` "eva". PEFT's `EvaConfig`; which rows count, its
/// label mask, is a function that `initialize_lora_eva_weights` takes.
struct TORCHLORA_API EvaConfig {
  EvaConfig() = default;
  /// A layer's rank may grow to rho · r; 1: no redistribution.
  TORCH_ARG(double, rho) = 2;
  /// Cosine from which on a component counts as converged.
  TORCH_ARG(double, tau) = 0.99;
  /// Whether components are divided by the roots of their singular values.
  TORCH_ARG(bool, whiten) = false;
  /// lora_alpha grows with a layer's rank.
  TORCH_ARG(bool, adjust_scaling_factors) = true;
};

} // namespace torchlora
