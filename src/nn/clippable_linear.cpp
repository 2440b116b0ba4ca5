#include <torchlora/nn/clippable_linear.h>

#include <limits>

#include <torch/types.h>

namespace torchlora::nn {

ClippableLinearImpl::ClippableLinearImpl(const ClippableLinearOptions& options_)
    : options(options_) {
  reset();
}

void ClippableLinearImpl::reset() {
  linear = register_module(
      "linear",
      Linear(torch::nn::LinearOptions(
                 options.in_features(), options.out_features())
                 .bias(false)));
  if (options.use_clipped_linears()) {
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    input_min = register_buffer("input_min", torch::tensor(-kInfinity));
    input_max = register_buffer("input_max", torch::tensor(kInfinity));
    output_min = register_buffer("output_min", torch::tensor(-kInfinity));
    output_max = register_buffer("output_max", torch::tensor(kInfinity));
  }
}

void ClippableLinearImpl::pretty_print(std::ostream& stream) const {
  stream << "torchlora::nn::ClippableLinear(in_features="
         << options.in_features() << ", out_features=" << options.out_features()
         << ", use_clipped_linears=" << std::boolalpha
         << options.use_clipped_linears() << ")";
}

std::shared_ptr<torch::nn::Module> ClippableLinearImpl::clone(
    const std::optional<torch::Device>& device) const {
  check_cloneable();
  return torch::nn::Cloneable<ClippableLinearImpl>::clone(device);
}

at::Tensor ClippableLinearImpl::base_forward(const at::Tensor& input) {
  return clamp_output(linear->forward(clamp_input(input)));
}

at::Tensor ClippableLinearImpl::clamp_input(const at::Tensor& input) const {
  return input_min.defined() ? at::clamp(input, input_min, input_max) : input;
}

at::Tensor ClippableLinearImpl::clamp_output(const at::Tensor& output) const {
  return output_min.defined() ? at::clamp(output, output_min, output_max)
                              : output;
}

} // namespace torchlora::nn
