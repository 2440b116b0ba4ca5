#pragma once

#include <ATen/Functions.h>

#include <torchlora/detail/low_rank.h>
#include <torchlora/lora/layer.h>
#include <torchlora/nn/compute.h>

namespace torchlora {

/// LoRA for layers that compute y = W x + b:
///
///     y = W x + b + Σ scaling · B A dropout(x)
///
/// Serves every base layer whose accessor gives W and b, in any layout. The
/// input of an update has the factors' dtype, the result the base product's.
/// One autograd function: of the activations it keeps x and A x only, the
/// dropout is drawn again from its seed. Differentiable once. It does not keep
/// x either where A is frozen, nor where a variant compresses it (behind an
/// active DoRA adapter VeLoRA is as plain LoRA).
/// PEFT's `lora.Linear`; Hu et al. 2021, arXiv:2106.09685.
class TORCHLORA_API LoraLinear : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;
  ~LoraLinear() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    return at::linear(at::linear(call.input, A), rows(call, B));
  }
  Tensor product(const LayerCall& call, ActiveUpdates updates) const override {
    const auto weight = rows(call, base_weight().matrix());
    // An operation on some rows of the weight has a bias of those only.
    const auto bias = call.bias.defined() && call.bias.size(0) != weight.size(0)
        ? rows(call, call.bias)
        : call.bias;
    if (updates.empty()) {
      return nn::linear(call.input, weight, bias);
    }
    std::vector<detail::LowRankTerm> terms;
    for (const auto& update : updates) {
      terms.push_back(
          {update.A,
           rows(call, update.B),
           update.scaling,
           update.dropout,
           update.compresses ? update.adapter->variant : nullptr});
    }
    return detail::low_rank_linear(call.input, weight, bias, terms);
  }
  Tensor per_channel(const LayerCall& call, const Tensor& values)
      const override {
    return rows(call, values);
  }
  Tensor weight_inputs(const LayerCall& call) const override {
    return call.input.reshape({-1, call.input.size(-1)});
  }
  WeightUse weight_use() const override {
    return WeightUse::kLinear;
  }
  bool is_linear() const override {
    return true;
  }

 protected:
  /// Narrows a tensor with a row per output channel to those that the forward
  /// at work computes: all, but for a layer that computes its output in parts.
  virtual Tensor rows(const LayerCall& call, const Tensor& tensor) const {
    return call.narrow(tensor);
  }
};

} // namespace torchlora
