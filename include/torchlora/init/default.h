#pragma once

#include <cmath>

#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// Draws a factor [*, n] as `torch::nn::Linear` draws its weight. Does nothing
/// for a factor without elements, whose bound would be infinite.
inline void draw_as_linear(Tensor& factor) {
  if (factor.numel() > 0) {
    torch::nn::init::kaiming_uniform_(factor, std::sqrt(5.0));
  }
}

/// The initializer for `init_lora_weights` true. Draws A as `torch::nn::Linear`
/// draws its weight (uniform in ±1/√in_features) and sets B to zero, so that
/// the adapted layer starts as the base layer. Hu et al. 2021,
/// arXiv:2106.09685.
inline void default_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  draw_as_linear(factors.A);
  torch::nn::init::zeros_(factors.B);
  if (factors.bias.defined()) {
    torch::nn::init::zeros_(factors.bias);
  }
}

/// The initializer for `init_lora_weights` false. Leaves A and B as the layer
/// constructed them, random, so that the adapted layer differs from the base
/// layer from the start. For tests.
inline void no_init(Factors& /*factors*/, const Arguments& /*arguments*/) {}

/// The initializer that embeddings use in place of one that draws A (true,
/// "gaussian"). Sets A to zero and draws B ~ N(0, 1).
inline void embedding_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  torch::nn::init::zeros_(factors.A);
  torch::nn::init::normal_(factors.B);
}

} // namespace torchlora::init
