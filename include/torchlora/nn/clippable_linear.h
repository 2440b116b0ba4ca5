#pragma once

#include <torch/nn/cloneable.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/linear.h>

namespace torchlora::nn {

/// Of a `ClippableLinear`.
struct TORCHLORA_API ClippableLinearOptions {
  /// With clamps.
  ClippableLinearOptions(int64_t in_features, int64_t out_features)
      : in_features_(in_features), out_features_(out_features) {}
  /// @{
  /// Sizes of the layer.
  TORCH_ARG(int64_t, in_features);
  TORCH_ARG(int64_t, out_features);
  /// @}

  /// Whether the clamps exist: four scalar buffers, ±inf until loaded.
  TORCH_ARG(bool, use_clipped_linears) = true;
};

/// A linear layer between two clamps, Gemma 4's `Gemma4ClippableLinear`:
///
///     y = clamp(W clamp(x, input_min, input_max), output_min, output_max)
///
/// Child `linear` (no bias); scalar buffers `input_min`, `input_max`,
/// `output_min`, `output_max`, which are saved but not trained. Input
/// [*, in_features], output [*, out_features]. The gradient passes a clamp
/// where the value lies inside it, the bounds included.
class TORCHLORA_API ClippableLinearImpl
    : public torch::nn::Cloneable<ClippableLinearImpl>,
      public Redirectable {
 public:
  /// @{
  /// Bounds are ±inf.
  ClippableLinearImpl(int64_t in_features, int64_t out_features)
      : ClippableLinearImpl(ClippableLinearOptions(in_features, out_features)) {
  }
  explicit ClippableLinearImpl(const ClippableLinearOptions& options);
  /// @}

  /// @{
  /// As `torch::nn::Module`'s; `clone` throws while the layer is adapted.
  void reset() override;
  void pretty_print(std::ostream& stream) const override;
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;
  /// @}

  /// The LoRA layer's, or `base_forward`.
  at::Tensor forward(const at::Tensor& input) {
    return redirected_forward(input);
  }
  at::Tensor base_forward(const at::Tensor& input) override;

  /// The two clamps; the identity without `use_clipped_linears`.
  at::Tensor clamp_input(const at::Tensor& input) const;
  /// See `clamp_input`.
  at::Tensor clamp_output(const at::Tensor& output) const;

  /// As it was made.
  ClippableLinearOptions options;
  /// Without bias.
  Linear linear{nullptr};
  /// @{
  /// Scalars; undefined without `use_clipped_linears`.
  at::Tensor input_min, input_max, output_min, output_max;
  /// @}
};
TORCH_MODULE(ClippableLinear);

} // namespace torchlora::nn
