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
