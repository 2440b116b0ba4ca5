#pragma once

#include <torchlora/lora/layers/linear.h>
#include <torchlora/nn/clippable_linear.h>

namespace torchlora {

/// The LoRA layer for `nn::ClippableLinear`, a linear layer that clamps its
/// input and its output. The update is inside the clamps:
///
///     x̂ = clamp(x, input_min, input_max)
///     y = clamp(W x̂ + Σ scaling · B A dropout(x̂), output_min, output_max)
///
/// so that a merged layer computes the same. The weight's path is
/// `linear.weight`. PEFT does the same if the inner `linear` is its target.
class TORCHLORA_API LoraClippableLinear : public LoraLinear {
 public:
  /// Makes a LoRA layer without adapters. `base_layer` is an
  /// `nn::ClippableLinear`.
  LoraClippableLinear(
      const std::shared_ptr<Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraLinear(base_layer, std::move(accessor)),
        base_(base_layer->as<nn::ClippableLinearImpl>()) {
    TORCH_INTERNAL_ASSERT(base_);
  }
  ~LoraClippableLinear() override;

  Tensor weight_inputs(const LayerCall& call) const override {
    return LoraLinear::weight_inputs(call.on(base_->clamp_input(call.input)));
  }

 protected:
  Tensor adapted_forward(const LayerCall& call, ActiveUpdates updates)
      override {
    auto clamped = call;
    clamped.input = base_->clamp_input(call.input);
    return base_->clamp_output(LoraLinear::adapted_forward(clamped, updates));
  }

 private:
  nn::ClippableLinearImpl* base_;
};

} // namespace torchlora
