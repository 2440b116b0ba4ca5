#pragma once

#include <ATen/Functions.h>

#include <torchlora/detail/rows.h>
#include <torchlora/lora/layer.h>

namespace torchlora {

/// The LoRA layer for `torch::nn::Bilinear`, y = x₁ᵀ W x₂ + b with W
/// [out_features, in1_features, in2_features]. A [r, in1_features,
/// in2_features] is the weight of a bilinear layer with r outputs; B
/// [out_features, r, 1] maps these to the output:
///
///     y = x₁ᵀ W x₂ + b + Σ scaling · B (x₁ᵀ A x₂)
///
/// This equals a bilinear layer with the weight W + Σ scaling · B A. Dropout
/// acts on x₁ and on x₂. The layer is adapted through the weight overlay
/// (`lora/overlay.h`); the input of a call is x₁ and x₂ concatenated, [*,
/// in1_features + in2_features]. PEFT has no counterpart.
class TORCHLORA_API LoraBilinear : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;
  ~LoraBilinear() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    return at::linear(operate(call, A, {}), B.flatten(1));
  }
  Tensor weight_inputs(const LayerCall& call) const override {
    const auto weight = base_weight().weight();
    const auto x = detail::as_rows(call.input);
    return (x.narrow(1, 0, weight.size(1)).unsqueeze(2) *
            x.narrow(1, weight.size(1), weight.size(2)).unsqueeze(1))
        .flatten(1);
  }
  WeightUse weight_use() const override {
    return WeightUse::kBilinear;
  }
};

} // namespace torchlora
