#pragma once

#include <limits>
#include <ostream>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/linear.h>

namespace torchlora::nn {

/// Options of `ClippableLinear`.
struct TORCHLORA_API ClippableLinearOptions {
  /// The clamps exist by default.
  ClippableLinearOptions(int64_t in_features, int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}
  TORCH_ARG(int64_t, in_features);
  TORCH_ARG(int64_t, out_features);
  /// Whether the clamps exist: four scalar buffers, ±inf until loaded.
  TORCH_ARG(bool, use_clipped_linears) = true;
};

/// A linear layer between two clamps, Gemma 4's `Gemma4ClippableLinear`:
///
///     y = clamp(W clamp(x, input_min, input_max), output_min, output_max)
///
/// Child `linear` (no bias); scalar buffers `input_min`, `input_max`,
/// `output_min`, `output_max`, which are saved but not trained. Input
/// [*, in_features], output [*, out_features]. A gradient passes a clamp where
/// the value lies between the bounds or on one of them.
class TORCHLORA_API ClippableLinearImpl
    : public torch::nn::Cloneable<ClippableLinearImpl>,
      public Redirectable {
 public:
  /// @{
  /// Creates a layer whose bounds are ±inf.
  ClippableLinearImpl(int64_t in_features, int64_t out_features)
      : ClippableLinearImpl(ClippableLinearOptions(in_features, out_features)) {
  }
  explicit ClippableLinearImpl(const ClippableLinearOptions& options_)
      : options(options_) {
    reset();
  }
  /// @}
  ~ClippableLinearImpl() override;

  /// Creates the child and the buffers.
  void reset() override {
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

  /// Writes the sizes and whether the layer has clamps.
  void pretty_print(std::ostream& stream) const override {
    stream << "torchlora::nn::ClippableLinear(in_features="
           << options.in_features()
           << ", out_features=" << options.out_features()
           << ", use_clipped_linears=" << std::boolalpha
           << options.use_clipped_linears() << ")";
  }

  /// Throws while the layer is adapted.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    check_cloneable();
    return torch::nn::Cloneable<ClippableLinearImpl>::clone(device);
  }

  /// Runs the LoRA layer, or `base_forward` if the layer is not adapted.
  Tensor forward(const Tensor& input) {
    return redirected_forward(input);
  }
  Tensor base_forward(const Tensor& input) override {
    return clamp_output(linear->forward(clamp_input(input)));
  }

  /// @{
  /// One of the two clamps; the identity without `use_clipped_linears`.
  Tensor clamp_input(const Tensor& input) const {
    return input_min.defined() ? at::clamp(input, input_min, input_max) : input;
  }
  Tensor clamp_output(const Tensor& output) const {
    return output_min.defined() ? at::clamp(output, output_min, output_max)
                                : output;
  }
  /// @}

  /// The options that the layer was made with.
  ClippableLinearOptions options;
  /// Without bias.
  Linear linear{nullptr};
  /// @{
  /// Scalars; undefined without `use_clipped_linears`.
  Tensor input_min, input_max, output_min, output_max;
  /// @}
};
TORCH_MODULE(ClippableLinear);

} // namespace torchlora::nn
