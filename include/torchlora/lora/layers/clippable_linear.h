#pragma once

#include <torchlora/lora/layers/linear.h>
#include <torchlora/nn/clippable_linear.h>

namespace torchlora {

/// LoRA for `nn::ClippableLinear`, with the update inside the clamps:
///
///     x̂ = clamp(x, input_min, input_max)
///     y = clamp(W x̂ + Σ scaling · B A dropout(x̂), output_min, output_max)
///
/// so that a merge is exact. The weight is at `linear.weight`. PEFT does the
/// same when it is pointed at the inner `linear`.
class TORCHLORA_API LoraClippableLinear : public LoraLinear {
 public:
  /// `base_layer` is an `nn::ClippableLinear`.
  LoraClippableLinear(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      BaseWeightAccessor accessor);

 protected:
  at::Tensor adapted_forward(
      const at::Tensor& input,
      const std::vector<Term>& terms) override;
  at::Tensor weight_input(const at::Tensor& input) const override;

 private:
  nn::ClippableLinearImpl* base_;
};

} // namespace torchlora
