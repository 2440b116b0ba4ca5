#pragma once

#include <ATen/Functions.h>

#include <torchlora/lora/layer.h>
#include <torchlora/nn/conv.h>

namespace torchlora {

/// The LoRA layer for `torch::nn::ConvTranspose1d`, `2d` and `3d`. A [r,
/// in_channels] acts on the channels of the input. B [out_channels · kernel
/// elements, r], reshaped to [r, out_channels, kernel…], is the kernel that the
/// layer's own transposed convolution applies to the result:
///
///     y = W * x + b + Σ scaling · B * (A dropout(x))
///
/// This equals the transposed convolution with W + Σ scaling · B A. The layer
/// is adapted through the weight overlay (`lora/overlay.h`). ValueError for
/// DoRA, `lora_bias` and grouped layers. PEFT has no counterpart.
class TORCHLORA_API LoraConvTranspose : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;
  ~LoraConvTranspose() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    const auto& x = call.input;
    auto sizes = x.sizes().vec();
    sizes[channels(x)] = A.size(0);
    const auto h = at::matmul(A, x.flatten(channels(x) + 1)).view(sizes);
    auto kernel_sizes = base_weight().weight().sizes().vec();
    kernel_sizes[0] = A.size(0);
    return operate(call.on(h), B.t().reshape(kernel_sizes), {});
  }
  Tensor weight_inputs(const LayerCall& call) const override {
    return call.input.movedim(channels(call.input), -1)
        .reshape({-1, base_weight().in_features()});
  }
  WeightUse weight_use() const override {
    return WeightUse::kTransposedConvolution;
  }

 protected:
  void check_config(const LoraConfig& config) const override {
    const auto groups = nn::convolution_groups(*base_layer());
    TORCH_CHECK_VALUE(
        groups == 1,
        "[update_layer] a transposed convolution with ",
        groups,
        " groups cannot be adapted; leave it out by exclude_modules");
    TORCH_CHECK_VALUE(
        !config.use_dora() && !config.lora_bias(),
        "[update_layer] use_dora and lora_bias are not supported for "
        "transposed convolutions; leave them out by exclude_modules");
  }

 private:
  /// Returns the index of the channel dimension of `input`, which may or may
  /// not have a batch dimension.
  int64_t channels(const Tensor& input) const {
    return input.dim() + 1 - base_weight().weight().dim();
  }
};

} // namespace torchlora
