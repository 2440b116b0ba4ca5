#pragma once

#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// The initializer "eva". Sets B to zero and leaves A random. After the
/// injection the user calls `initialize_lora_eva_weights`
/// (`tools/preprocess.h`), which sets A to the principal components of the
/// layer's input. Paischer et al. 2024, arXiv:2410.07170.
inline void eva_init(Factors& factors, const Arguments& /*arguments*/) {
  torch::nn::init::zeros_(factors.B);
}

/// Returns whether the adapter's initializer is "eva". Only then may
/// `initialize_lora_eva_weights` replace the factors.
inline bool is_eva(const LoraConfig& config) {
  return config.init_lora_weights() == InitLoraWeights("eva");
}

} // namespace torchlora::init
