#pragma once

#include <torchlora/lora/layer.h>

namespace torchlora {

/// LoRA for `torch::nn::Bilinear`, y = x₁ᵀ W x₂ + b with W [out_features,
/// in1_features, in2_features]: A [r, in1_features, in2_features] in its place
/// and B [out_features, r, 1] behind it, so that
///
///     y = x₁ᵀ W x₂ + b + Σ scaling · B (x₁ᵀ A x₂)
///
/// is that with W + Σ scaling · B A. Dropout acts on both inputs. The layers
/// are adapted by the weight overlay (`lora/overlay.h`). PEFT has no
/// counterpart.
class TORCHLORA_API LoraBilinear : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;

 protected:
  WeightUse weight_use() const override {
    return WeightUse::kBilinear;
  }
  /// `input` of each is [*, in1_features + in2_features].
  at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) override;
  at::Tensor update(const at::Tensor& input, const Term& term) override;
  at::Tensor weight_input(const at::Tensor& input) const override;
};

} // namespace torchlora
