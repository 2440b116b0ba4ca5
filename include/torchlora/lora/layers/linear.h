#pragma once

#include <torchlora/lora/layer.h>

namespace torchlora {

/// LoRA for layers that compute y = W x + b:
///
///     y = W x + b + Σ scaling · B A dropout(x)
///
/// Serves every base layer whose accessor gives W and b, in any layout. The
/// input of an update has the factors' dtype, the result the base product's.
/// One autograd function: of the activations it keeps x and A x only, the
/// dropout is drawn again from its seed. Differentiable once. Where A is frozen
/// x is not kept either, nor with VeLoRA, which leaves out x for A in training
/// (behind an active DoRA adapter it is as plain LoRA).
/// PEFT's `lora.Linear`; Hu et al. 2021, arXiv:2106.09685.
class TORCHLORA_API LoraLinear : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;

 protected:
  WeightUse weight_use() const override {
    return WeightUse::kLinear;
  }
  bool supports_velora() const override {
    return true;
  }
  at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) override;
  at::Tensor update(const at::Tensor& input, const Term& term) override;
  at::Tensor weight_input(const at::Tensor& input) const override;
  at::Tensor per_channel(const at::Tensor& values) const override {
    return rows(values);
  }
  /// Of a tensor with a row for each output channel those that the forward at
  /// work computes: all, but for a layer that computes its output in parts.
  virtual at::Tensor rows(const at::Tensor& tensor) const {
    return rows_of_operation(tensor);
  }
};

} // namespace torchlora
