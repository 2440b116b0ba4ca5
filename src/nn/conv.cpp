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
at::Tensor convolve(
    at::Tensor input,
    const at::Tensor& kernel,
    const at::Tensor& bias,
    const torch::nn::detail::ConvNdOptions<D>& options,
    const std::vector<int64_t>& reversed_padding) {
  const auto padding = pad<D>(input, options, reversed_padding);
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

} // namespace

at::Tensor Conv1dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel,
    const at::Tensor& bias_) const {
  return nn::convolve<1>(
      input, kernel, bias_, options, _reversed_padding_repeated_twice);
}

at::Tensor Conv2dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel,
    const at::Tensor& bias_) const {
  return nn::convolve<2>(
      input, kernel, bias_, options, _reversed_padding_repeated_twice);
}

at::Tensor Conv3dImpl::convolve(
    const at::Tensor& input,
    const at::Tensor& kernel,
    const at::Tensor& bias_) const {
  return nn::convolve<3>(
      input, kernel, bias_, options, _reversed_padding_repeated_twice);
}

int64_t convolution_groups(const torch::nn::Module& module) {
  int64_t groups = 1;
  const auto look = [&]<class... Types>() {
    const auto of = [&](const auto* convolution) {
      groups = convolution ? convolution->options.groups() : groups;
    };
    (of(dynamic_cast<const Types*>(&module)), ...);
  };
  look.operator()<
      torch::nn::Conv1dImpl,
      torch::nn::Conv2dImpl,
      torch::nn::Conv3dImpl,
      torch::nn::ConvTranspose1dImpl,
      torch::nn::ConvTranspose2dImpl,
      torch::nn::ConvTranspose3dImpl>();
  return groups;
}

} // namespace torchlora::nn
