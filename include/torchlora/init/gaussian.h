#pragma once

#include <torch/nn/init.h>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// The initializer "gaussian". Draws A ~ N(0, 1/r²) and sets B to zero, so that
/// the adapted layer starts as the base layer.
inline void gaussian_init(Factors& factors, const Arguments& arguments) {
  if (arguments.is_loaded) {
    return;
  }
  torch::nn::init::normal_(
      factors.A, /*mean=*/0, /*std=*/1.0 / static_cast<double>(arguments.r));
  torch::nn::init::zeros_(factors.B);
}

} // namespace torchlora::init
