#pragma once

#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// "eva": B zero. A stays random until `initialize_lora_eva_weights`
/// (`tools/preprocess.h`), which is called after the injection, replaces it by
/// the principal components of the layer's input. Paischer et al. 2024,
/// arXiv:2410.07170.
inline void eva_init(Factors& factors, const Arguments& /*arguments*/) {
  torch::nn::init::zeros_(factors.B);
}

/// Whether `initialize_lora_eva_weights` may replace the factors.
inline bool is_eva(const LoraConfig& config) {
  return config.init_lora_weights() == InitLoraWeights("eva");
}

} // namespace torchlora::init
