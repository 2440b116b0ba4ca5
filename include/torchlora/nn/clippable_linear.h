#pragma once

#include <limits>
#include <ostream>

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <torchlora/detail/arg.h>
#include <torchlora/nn/linear.h>

namespace torchlora::nn {

/// Options of `ClippableLinear`, a linear layer that clamps its input and its
/// output.
struct TORCHLORA_API ClippableLinearOptions {
  /// Sets the sizes. The layer has clamps unless `use_clipped_linears(false)`
  /// follows.
  ClippableLinearOptions(int64_t in_features, int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}
  TORCHLORA_ARG(int64_t, in_features);
  TORCHLORA_ARG(int64_t, out_features);
  /// Whether the layer has clamps. Their bounds are four scalar buffers, ±inf
  /// until a checkpoint sets them.
  TORCHLORA_ARG(bool, use_clipped_linears) = true;
};

/// A linear layer between two clamps, Gemma 4's `Gemma4ClippableLinear`:
///
///     y = clamp(W clamp(x, input_min, input_max), output_min, output_max)
///
/// Input x [*, in_features], output y [*, out_features]. The child `linear`
/// holds W and has no bias. The bounds are scalar buffers: files contain them,
/// optimizers do not change them. A gradient passes a clamp where the value
/// lies between the bounds or on one of them.
class TORCHLORA_API ClippableLinearImpl
    : public torch::nn::Cloneable<ClippableLinearImpl>,
      public Redirectable {
 public:
  /// @{
  /// Creates a layer whose bounds are ±inf, so that its clamps change nothing
  /// yet.
  ClippableLinearImpl(int64_t in_features, int64_t out_features)
      : ClippableLinearImpl(ClippableLinearOptions(in_features, out_features)) {
  }
  explicit ClippableLinearImpl(const ClippableLinearOptions& options_)
      : options(options_) {
    reset();
  }
  /// @}
  ~ClippableLinearImpl() override;

  /// Creates the child `linear` and the buffers of the bounds. The constructor
  /// and `clone()` call it.
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

  /// Writes the sizes of the layer, and whether it has clamps, to `stream`.
  void pretty_print(std::ostream& stream) const override {
    stream << "torchlora::nn::ClippableLinear(in_features="
           << options.in_features()
           << ", out_features=" << options.out_features()
           << ", use_clipped_linears=" << std::boolalpha
           << options.use_clipped_linears() << ")";
  }

  /// Returns a copy with its own tensors, on `device` if given. Throws
  /// c10::Error while an adapter is attached to the layer, because the copy
  /// would lack it; unload the adapter first.
  std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    check_cloneable();
    return torch::nn::Cloneable<ClippableLinearImpl>::clone(device);
  }

  /// Returns the LoRA layer's forward if an adapter is attached to the layer,
  /// otherwise `base_forward(input)`.
  Tensor forward(const Tensor& input) {
    return redirected_forward(input);
  }
  Tensor base_forward(const Tensor& input) override {
    return clamp_output(linear->forward(clamp_input(input)));
  }

  /// @{
  /// Clamps the input or the output of the layer to its bounds. Returns the
  /// tensor unchanged if the layer has no clamps (`use_clipped_linears` is
  /// false).
  Tensor clamp_input(const Tensor& input) const {
    return input_min.defined() ? at::clamp(input, input_min, input_max) : input;
  }
  Tensor clamp_output(const Tensor& output) const {
    return output_min.defined() ? at::clamp(output, output_min, output_max)
                                : output;
  }
  /// @}

  /// The options that the constructor received.
  ClippableLinearOptions options;
  /// The linear layer between the two clamps. It has no bias.
  Linear linear{nullptr};
  /// @{
  /// The bounds of the two clamps: scalar buffers. Undefined if
  /// `use_clipped_linears` is false.
  Tensor input_min, input_max, output_min, output_max;
  /// @}
};
TORCH_MODULE(ClippableLinear);

} // namespace torchlora::nn
