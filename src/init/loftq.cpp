#include <array>

#include <torch/types.h>

#include "init/decompose.h"

namespace torchlora::init {
namespace {

/// QLoRA's normal float: quantiles of N(0, 1), Dettmers et al. 2023,
/// arXiv:2305.14314, appendix E.
constexpr std::array<float, 16> kNormalFloat4{
    -1.0F,
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
    1.0F};

/// The nearest NF4 value of each element, in blocks of 64 of the rows one
/// after another.
at::Tensor nf4(const at::Tensor& matrix) {
  constexpr int64_t kBlock = 64;
  const auto codes =
      at::from_blob(const_cast<float*>(kNormalFloat4.data()), {16}, at::kFloat)
          .to(matrix.options());
  const auto bounds = (codes.narrow(0, 0, 15) + codes.narrow(0, 1, 15)) / 2;
  const auto values = matrix.flatten();
  const auto size = values.size(0);
  const auto padding = (kBlock - size % kBlock) % kBlock;
  const auto blocks =
      at::constant_pad_nd(values, {0, padding}).view({-1, kBlock});
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

/// The nearest of 255 values from -max to max of each row.
at::Tensor int8(const at::Tensor& matrix) {
  const auto largest = matrix.abs().amax(1, /*keepdim=*/true);
  const auto scale = at::where(largest > 0, largest, 1) / 127;
  return (matrix / scale).round_().mul_(scale);
}

} // namespace

void loftq_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "loftq");
  const auto config = arguments.config.loftq_config().value_or(LoftQConfig());
  const auto quantize = config.loftq_bits() == 4 ? nf4 : int8;
  // NOTE: rounded to the weight's dtype before the residual is taken, so that
  // the update makes up for that too.
  const auto quantized = [&](const at::Tensor& matrix) {
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

} // namespace torchlora::init
