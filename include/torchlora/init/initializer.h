#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/lora/config.h>

namespace torchlora::init {

/// The two factors of an update, fp32 on the CPU: A [r, in_features],
/// B [out_features, r].
struct Factors {
  at::Tensor A, B;
};

/// What an initialiser may look at.
struct Arguments {
  const LoraConfig& config;
  int64_t r;
  double scaling;
  /// [out_features, in_features], in the base layer's dtype and device.
  at::Tensor base_weight;
};

/// Overwrites factors that hold what the layer was constructed with (for a
/// linear layer: both as `torch::nn::Linear` draws its weight). Draws from
/// the CPU's default generator in PEFT's order, so that the same seed gives
/// the same factors.
using Initializer = void (*)(Factors& factors, const Arguments& arguments);

/// The initialiser that `init_lora_weights` means: true, false, or a name
/// (case is ignored where PEFT ignores it). ValueError lists the known names.
TORCHLORA_API Initializer find_initializer(const InitLoraWeights& value);

/// true: A as `torch::nn::Linear` draws it (uniform in ±1/√in_features), B
/// zero: the adapted layer is the base layer.
TORCHLORA_API void default_init(Factors& factors, const Arguments& arguments);
/// false: both stay as they were drawn; the layer changes. For tests.
TORCHLORA_API void no_init(Factors& factors, const Arguments& arguments);
/// "gaussian": A ~ N(0, 1/r²), B zero.
TORCHLORA_API void gaussian_init(Factors& factors, const Arguments& arguments);

} // namespace torchlora::init
