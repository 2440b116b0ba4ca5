#pragma once

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// Rounds each element of `matrix` to the nearest value of QLoRA's 4-bit normal
/// float (NF4) and returns the result in floating point. Each block of 64
/// consecutive row-major elements is scaled by its largest absolute value. The
/// 16 values are quantiles of N(0, 1): Dettmers et al. 2023, arXiv:2305.14314,
/// appendix E.
inline Tensor quantize_nf4(const Tensor& matrix) {
  constexpr int64_t block = 64;
  const auto codes = at::tensor(
      {-1.0F,
       -0.6961928009986877F,
       -0.5250730514526367F,
       -0.39491748809814453F,
       -0.28444138169288635F,
       -0.18477343022823334F,
       -0.09105003625154495F,
       0.0F,
       0.07958029955625534F,
       0.16093020141124725F,
       0.24611230194568634F,
       0.33791524171829224F,
       0.44070982933044434F,
       0.5626170039176941F,
       0.7229568362236023F,
       1.0F},
      matrix.options());
  const auto bounds = (codes.narrow(0, 0, 15) + codes.narrow(0, 1, 15)) / 2;
  const auto values = matrix.flatten();
  const auto size = values.size(0);
  const auto padding = (block - size % block) % block;
  const auto blocks =
      at::constant_pad_nd(values, {0, padding}).view({-1, block});
  const auto largest = blocks.abs().amax(1, /*keepdim=*/true);
  const auto scale = at::where(largest > 0, largest, 1);
  const auto index = at::bucketize(blocks / scale, bounds, /*out_int32=*/true);
  return codes.index_select(0, index.flatten())
      .view_as(blocks)
      .mul_(largest)
      .flatten()
      .narrow(0, 0, size)
      .view_as(matrix);
}

/// Rounds each element of `matrix` to the nearest of 255 evenly spaced values
/// between −max and max, where max is the largest absolute value of its row.
/// Returns the result in floating point.
inline Tensor quantize_int8(const Tensor& matrix) {
  const auto largest = matrix.abs().amax(1, /*keepdim=*/true);
  const auto scale = at::where(largest > 0, largest, 1) / 127;
  return (matrix / scale).round_().mul_(scale);
}

/// The initializer "loftq". Quantizes the base weight W to Q, and sets A and B
/// so that scaling · B A is the best approximation of rank r of W − Q. The
/// layer then replaces its base weight by Q. With `loftq_iter` N it repeats
/// both steps N times; each further Q quantizes W − scaling · B A. Li et al.
/// 2023, arXiv:2310.08659.
inline void loftq_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "loftq");
  const auto config = arguments.config.loftq_config().value_or(LoftQConfig());
  const auto quantize = config.loftq_bits() == 4 ? quantize_nf4 : quantize_int8;
  // Q has the weight's dtype before the residual is taken, so that the update
  // makes up for that rounding too.
  const auto quantized = [&](const Tensor& matrix) {
    factors.base_weight = quantize(matrix).to(arguments.base_weight.options());
    return factors.base_weight.to(weight.scalar_type());
  };
  auto rest = weight;
  for (int64_t i = 0; i < config.loftq_iter(); ++i) {
    const auto Q = quantized(rest);
    if (arguments.is_loaded) {
      return;
    }
    const auto triplets = leading_triplets(weight - Q, arguments.r);
    share_out(factors, triplets, arguments.scaling);
    rest = weight - at::mm(triplets.U * triplets.S, triplets.V.t());
  }
}

/// Returns whether a second run on the same weight gives the same Q: true only
/// for one iteration, as later ones depend on the rounding of a decomposition.
inline bool loftq_is_repeatable(const LoraConfig& config) {
  const auto options = config.loftq_config().value_or(LoftQConfig());
  return options.loftq_iter() == 1;
}

} // namespace torchlora::init
