#include <torchlora/nn/conv.h>

#include <torch/nn/functional/conv.h>
#include <torch/nn/functional/padding.h>

namespace torchlora::nn {
namespace {

namespace F = torch::nn::functional;

/// Pads where the mode is not zeros, as the convolution itself can not, and
/// gives the padding that is left for it.
template <size_t D>
typename torch::nn::detail::conv_padding_t<D> pad(
    at::Tensor& input,
    const torch::nn::detail::ConvNdOptions<D>& options,
    const std::vector<int64_t>& reversed_padding) {
  if (std::holds_alternative<torch::enumtype::kZeros>(options.padding_mode())) {
    return options.padding();
  }
  const auto mode = [&]() -> F::PadFuncOptions::mode_t {
    if (std::holds_alternative<torch::enumtype::kReflect>(
            options.padding_mode())) {
      return torch::kReflect;
    }
    if (std::holds_alternative<torch::enumtype::kReplicate>(
            options.padding_mode())) {
      return torch::kReplicate;
    }
    return torch::kCircular;
  }();
  input = F::pad(input, F::PadFuncOptions(reversed_padding).mode(mode));
  return torch::ExpandingArray<D>(0);
}

template <size_t D>
F::ConvFuncOptions<D> as_function_options(
    const torch::nn::detail::ConvNdOptions<D>& options,
    const typename torch::nn::detail::conv_padding_t<D>& padding) {
  return F::ConvFuncOptions<D>()
      .stride(options.stride())
      .padding(padding)
      .dilation(options.dilation())
      .groups(options.groups());
}

} // namespace

at::Tensor Conv1dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel) const {
  auto x = input;
  const auto padding = pad<1>(x, options, _reversed_padding_repeated_twice);
  return F::conv1d(x, kernel, as_function_options<1>(options, padding));
}

at::Tensor Conv2dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel) const {
  auto x = input;
  const auto padding = pad<2>(x, options, _reversed_padding_repeated_twice);
  return F::conv2d(x, kernel, as_function_options<2>(options, padding));
}

at::Tensor Conv3dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel) const {
  auto x = input;
  const auto padding = pad<3>(x, options, _reversed_padding_repeated_twice);
  return F::conv3d(x, kernel, as_function_options<3>(options, padding));
}

} // namespace torchlora::nn
