#pragma once

#include <torchlora/init/initializer.h>
#include <torchlora/lora/base_weight.h>
#include <torchlora/lora/layer_call.h>

namespace torchlora {

/// The interface of what a layer type computes, from which `LoraLayer` derives.
/// A layer type implements it; `LoraLayer` and the variants call it. A type
/// that is adapted only through the weight overlay (`lora/overlay.h`) needs
/// `low_rank` and `weight_use`.
class TORCHLORA_API LayerFunction {
 public:
  virtual ~LayerFunction();

  /// Returns the accessor of the base layer's raw weight, which contains no
  /// update unless one is merged.
  virtual BaseWeight base_weight() const = 0;

  /// Returns B A x for the input x of `call`, without scaling and without
  /// dropout. x has the factors' dtype. A is [r, in_features, kernel…], B
  /// [out_features, r, 1…].
  virtual Tensor
  low_rank(const LayerCall& call, const Tensor& A, const Tensor& B) const = 0;
  /// Computes the layer's own function (for example its convolution) of
  /// `call.input` with the given `weight` and `bias` (undefined: none).
  /// Default: runs `call.operation`, which only a layer under the weight
  /// overlay has.
  virtual Tensor operate(
      const LayerCall& call,
      const Tensor& weight,
      const Tensor& bias) const;
  /// Returns the layer's output with W + Σ scaling · B A in place of the base
  /// weight W and with `call.bias`, in the dtype of the base product. Default:
  /// runs `operate` on W and adds each `update`.
  virtual Tensor product(const LayerCall& call, ActiveUpdates updates) const;
  /// Returns the contribution scaling · B A dropout(x) of one update to the
  /// output, where x is the input of `call`.
  Tensor update(const LayerCall& call, const ActiveUpdate& update) const;
  /// Reshapes `values` [out_features], one value per output channel, so that
  /// they broadcast against the layer's output. Default: returns them as they
  /// are.
  virtual Tensor per_channel(const LayerCall& /*call*/, const Tensor& values)
      const {
    return values;
  }
  /// Returns the vectors that the weight matrix is multiplied by in this call,
  /// as rows [n, in_features · kernel elements]. CorDA and EVA collect them
  /// (`LoraLayer::set_input_observer`). Default: ValueError.
  virtual Tensor weight_inputs(const LayerCall& call) const;

  /// Returns the LibTorch operation that this layer type applies to its weight,
  /// which the weight overlay then computes in low-rank form. Default: none.
  virtual WeightUse weight_use() const {
    return WeightUse::kDense;
  }
  /// Returns whether `product` computes its updates by
  /// `detail::low_rank_linear`. Only such a layer supports a variant that
  /// `is_linear_only`. Default: false.
  virtual bool is_linear() const {
    return false;
  }

 protected:
  /// Draws the factors of a new adapter as PEFT constructs them for this layer
  /// type, before the initializer overwrites them. Returns fp32 matrices A [r,
  /// in_features · kernel elements] and B [out_features, r].
  virtual init::Factors construct_factors(const LoraConfig& config, int64_t r)
      const;
  /// Returns the function that this layer type calls for an initializer.
  /// Default: the initializer's own; embeddings substitute another.
  virtual init::InitFunction init_function(
      const init::Initializer& initializer) const {
    return initializer.function;
  }
  /// Throws ValueError if this layer cannot have an adapter of this
  /// configuration. `LoraLayer` calls it before it adds one. Default: accepts
  /// all.
  virtual void check_config(const LoraConfig& /*config*/) const {}
  /// Returns whether the base layer's own forward writes to its weight, as an
  /// embedding with `max_norm` does. `LoraLayer` then computes it by `product`
  /// without updates, as adapters depend on the weight. Default: false.
  virtual bool base_forward_writes() const {
    return false;
  }
};

} // namespace torchlora
