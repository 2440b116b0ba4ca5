#pragma once

#include <torchlora/lora/layer.h>

namespace torchlora {

/// LoRA for `torch::nn::ConvTranspose1d`, `2d` and `3d`: A [r, in_channels] on
/// the channels, B [out_channels · kernel elements, r] as the kernel [r,
/// out_channels, kernel…] of the layer's own transposed convolution, so that
///
///     y = W * x + b + Σ scaling · B * (A dropout(x))
///
/// is that with W + Σ scaling · B A. The layers are adapted by the weight
/// overlay (`lora/overlay.h`). DoRA, lora_bias and grouped layers are refused.
/// PEFT has no counterpart.
class TORCHLORA_API LoraConvTranspose : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;

 protected:
  WeightUse weight_use() const override {
    return WeightUse::kTransposedConvolution;
  }
  void check_config(const LoraConfig& config) const override;
  at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) override;
  at::Tensor update(const at::Tensor& input, const Term& term) override;
  at::Tensor weight_input(const at::Tensor& input) const override;

 private:
  /// The dimension of the channels, with a batch or without.
  int64_t channels(const at::Tensor& input) const;
};

} // namespace torchlora
