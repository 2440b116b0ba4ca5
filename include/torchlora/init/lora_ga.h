#pragma once

#include <algorithm>
#include <cmath>

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// The initializer "lora_ga". With the mean gradient G = U S Vᵀ of the base
/// weight (`preprocess_loraga`), it sets A to r rows of Vᵀ and B to r columns
/// of U S, so that the first training step moves B A in the direction in which
/// full training would move the weight. `LoraGAConfig` chooses the columns and
/// the scale. `LoraLayer::commit_adapter` then subtracts scaling · B A from the
/// base weight, so that the adapted layer starts as the base layer. Wang et al.
/// 2024, arXiv:2407.05000.
inline void lora_ga_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "lora_ga");
  const auto gradient = statistics_for(
                            arguments,
                            "lora_ga",
                            "preprocess_loraga(model, config, train_step)",
                            weight.sizes())
                            .to(weight.options());
  const auto config =
      arguments.config.lora_ga_config().value_or(LoraGAConfig());
  const auto r = arguments.r;
  const auto most = std::min(weight.size(0), weight.size(1));
  TORCH_CHECK_VALUE(
      2 * r <= most,
      "[init_lora_weights] lora_ga takes 2 r singular vectors of the gradient, "
      "2 r <= min(in_features, out_features), found r ",
      r,
      " for a weight of ",
      weight.sizes());
  const auto [U, S, V] =
      svd_lowrank(gradient, std::min(4 * r, most), /*niter=*/4);

  const auto& direction = config.direction();
  const auto every = at::arange(2 * r, at::TensorOptions(at::kLong));
  Tensor of_A, of_B;
  if (direction == "ArB2r") {
    of_A = every.narrow(0, 0, r);
    of_B = every.narrow(0, r, r);
  } else if (direction == "A2rBr") {
    of_A = every.narrow(0, r, r);
    of_B = every.narrow(0, 0, r);
  } else if (direction == "ArBr") {
    of_A = every.slice(0, 1, 2 * r, 2);
    of_B = every.slice(0, 0, 2 * r, 2);
  } else {
    of_A = of_B = at::randperm(2 * r).narrow(0, 0, r);
  }
  of_A = of_A.to(weight.device());
  of_B = of_B.to(weight.device());
  const auto S_B = S.index_select(0, of_B);
  factors.A = V.index_select(1, of_A).t();
  factors.B = U.index_select(1, of_B) * S_B;

  const auto& scale = config.scale();
  if (scale == "stable") {
    factors.B = factors.B *
        (std::pow(static_cast<double>(weight.size(0)), 0.25) /
         std::sqrt(static_cast<double>(config.stable_gamma())));
  } else if (scale == "weight_svd") {
    const auto largest = svd_lowrank(weight, r, /*niter=*/4).S[0];
    const auto own = S_B[0].item<double>();
    if (own > 0) {
      factors.B = factors.B * (largest / own);
    }
  } else if (scale == "gd_scale") {
    factors.A = factors.A / arguments.scaling;
    factors.B = factors.B / arguments.scaling;
  }
}

} // namespace torchlora::init
