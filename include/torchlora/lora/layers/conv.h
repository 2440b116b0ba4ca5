#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/nn/conv.h>

namespace torchlora {

/// LoRA for `nn::Conv1d`, `Conv2d` and `Conv3d`, and for those of `torch::nn`:
/// A is a kernel [r, in_channels, kernel…] that the layer's own convolution
/// applies (its stride, padding and padding mode, dilation), B one of size 1,
/// so that
///
///     y = W * x + b + Σ scaling · B · (A * dropout(x))
///
/// is the convolution with W + Σ scaling · B A. PEFT's `lora.Conv2d`, which
/// leaves out dilation and padding mode. Grouped convolutions are refused:
/// PEFT's update of them is not one of their weight and cannot be merged.
class TORCHLORA_API LoraConv : public LoraLayer {
 public:
  /// `base_layer` is a convolution.
  LoraConv(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      BaseWeightAccessor accessor);

 protected:
  WeightUse weight_use() const override {
    return WeightUse::kConvolution;
  }
  void check_config(const LoraConfig& config) const override;
  at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) override;
  at::Tensor update(const at::Tensor& input, const Term& term) override;
  at::Tensor per_channel(const at::Tensor& values) const override;
  at::Tensor weight_input(const at::Tensor& input) const override;

 private:
  /// By the layer's own convolution.
  at::Tensor convolve(
      const at::Tensor& input,
      const at::Tensor& kernel,
      const at::Tensor& bias) const;

  /// nullptr for an unmodified layer.
  nn::Convolution* base_;
  /// Of the kernel.
  int64_t spatial_dims_;
};

} // namespace torchlora
