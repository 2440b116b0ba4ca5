#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include <torch/nn/functional/conv.h>
#include <torch/nn/functional/padding.h>

#include <torchlora/types.h>

namespace torchlora::detail {

/// Not public. Pads `input` if the layer's padding mode is not zeros, and
/// returns the padding that the convolution itself must still apply. LibTorch's
/// convolution pads with zeros only.
template <size_t D>
typename torch::nn::detail::conv_padding_t<D> pad_for_convolution(
    Tensor& input,
    const torch::nn::detail::ConvNdOptions<D>& options,
    const std::vector<int64_t>& reversed_padding) {
  namespace F = torch::nn::functional;
  const auto& padding_mode = options.padding_mode();
  if (std::holds_alternative<torch::enumtype::kZeros>(padding_mode)) {
    return options.padding();
  }
  F::PadFuncOptions::mode_t mode = torch::kCircular;
  if (std::holds_alternative<torch::enumtype::kReflect>(padding_mode)) {
    mode = torch::kReflect;
  } else if (std::holds_alternative<torch::enumtype::kReplicate>(
                 padding_mode)) {
    mode = torch::kReplicate;
  }
  input = F::pad(input, F::PadFuncOptions(reversed_padding).mode(mode));
  return torch::ExpandingArray<D>(0);
}

/// Not public. Returns what the forward of a `torch::nn` convolution with these
/// options returns, computed with the given `kernel` and `bias` instead of the
/// layer's. `reversed_padding` is the layer's member
/// `_reversed_padding_repeated_twice`.
template <size_t D>
Tensor convolve(
    Tensor input,
    const Tensor& kernel,
    const Tensor& bias,
    const torch::nn::detail::ConvNdOptions<D>& options,
    const std::vector<int64_t>& reversed_padding) {
  namespace F = torch::nn::functional;
  const auto padding = pad_for_convolution<D>(input, options, reversed_padding);
  const auto function_options = F::ConvFuncOptions<D>()
                                    .stride(options.stride())
                                    .padding(padding)
                                    .dilation(options.dilation())
                                    .groups(options.groups())
                                    .bias(bias);
  if constexpr (D == 1) {
    return F::conv1d(input, kernel, function_options);
  } else if constexpr (D == 2) {
    return F::conv2d(input, kernel, function_options);
  } else {
    return F::conv3d(input, kernel, function_options);
  }
}

} // namespace torchlora::detail
