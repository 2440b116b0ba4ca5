#pragma once

#include <ATen/Functions.h>

#include <torchlora/detail/low_rank.h>
#include <torchlora/detail/rows.h>
#include <torchlora/lora/layer.h>
#include <torchlora/nn/compute.h>

namespace torchlora {

/// The LoRA layer for layers that compute y = W x + b:
///
///     y = W x + b + Σ scaling · B A dropout(x)
///
/// It works for every base layer whose accessor returns W and b, in any layout.
/// An update is computed in the factors' dtype, the result has the dtype of W x
/// + b. The forward is one autograd function. For backward it stores x and A x,
/// and draws the dropout mask again from its seed; it does not store x if A is
/// frozen or if a variant compresses x. (VeLoRA after an active DoRA adapter
/// does not compress.) Second derivatives are not supported. PEFT's
/// `lora.Linear`; Hu et al. 2021, arXiv:2106.09685.
class TORCHLORA_API LoraLinear : public LoraLayer {
 public:
  using LoraLayer::LoraLayer;
  ~LoraLinear() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    return at::linear(at::linear(call.input, A), rows(call, B));
  }
  Tensor operate(
      const LayerCall& call,
      const Tensor& weight,
      const Tensor& bias) const override {
    const auto matrix = base_weight().with_weight(weight).matrix();
    return nn::linear(call.input, rows(call, matrix), bias);
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
    return detail::as_rows(call.input);
  }
  WeightUse weight_use() const override {
    return WeightUse::kLinear;
  }
  bool is_linear() const override {
    return true;
  }

 protected:
  /// Returns the rows of `tensor` that the current forward computes. `tensor`
  /// has one row per output channel. Default: the rows that `call.operation`
  /// uses, or all rows without an operation. A layer that computes its output
  /// in parts overrides it.
  virtual Tensor rows(const LayerCall& call, const Tensor& tensor) const {
    return call.narrow(tensor);
  }
};

} // namespace torchlora
