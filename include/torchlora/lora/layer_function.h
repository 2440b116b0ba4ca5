#pragma once

#include <torchlora/init/initializer.h>
#include <torchlora/lora/base_weight.h>
#include <torchlora/lora/layer_call.h>

namespace torchlora {

/// What a type of layer computes: the part of `LoraLayer` that a layer type
/// implements and that the adapters' variants call. `low_rank` is all that a
/// layer needs whose unmodified form the weight overlay knows (`WeightUse`).
class TORCHLORA_API LayerFunction {
 public:
  virtual ~LayerFunction();

  /// The raw weight.
  virtual BaseWeight base_weight() const = 0;

  /// Returns B A x for the call's input x, which has the factors' dtype.
  virtual Tensor
  low_rank(const LayerCall& call, const Tensor& A, const Tensor& B) const = 0;
  /// Returns the layer's function of the call's input with another weight and
  /// bias (undefined: none). Default: the operation at work of an unmodified
  /// layer.
  virtual Tensor operate(
      const LayerCall& call,
      const Tensor& weight,
      const Tensor& bias) const;
  /// Returns the layer with W + Σ scaling · B A in place of W and with the
  /// call's bias, in the dtype of the product alone. Default: `operate` on the
  /// base weight, and a sum.
  virtual Tensor product(const LayerCall& call, ActiveUpdates updates) const;
  /// Returns scaling · B A dropout(x).
  Tensor update(const LayerCall& call, const ActiveUpdate& update) const;
  /// Returns [out_features] in a shape that broadcasts against the output.
  virtual Tensor per_channel(const LayerCall& /*call*/, const Tensor& values)
      const {
    return values;
  }
  /// Returns the rows that the weight is multiplied by, see
  /// `LoraLayer::set_input_observer`. ValueError for a layer type that does not
  /// tell.
  virtual Tensor weight_inputs(const LayerCall& call) const;

  virtual WeightUse weight_use() const {
    return WeightUse::kDense;
  }
  /// Whether `product` passes its updates to `detail::low_rank_linear`, which
  /// `LoraVariant::compresses` needs.
  virtual bool is_linear() const {
    return false;
  }

 protected:
  /// Returns factors as PEFT constructs them for this type of layer, drawn in
  /// fp32, as matrices.
  virtual init::Factors construct_factors(const LoraConfig& config, int64_t r)
      const;
  /// Returns what this layer type runs for an initializer.
  virtual init::InitFunction init_function(
      const init::Initializer& initializer) const {
    return initializer.function;
  }
  /// ValueError if the layer cannot have an adapter of this configuration.
  virtual void check_config(const LoraConfig& /*config*/) const {}
  /// Whether the base layer's own forward writes to its weight, which must not
  /// be while an update is merged into it.
  virtual bool base_forward_writes() const {
    return false;
  }
};

} // namespace torchlora
