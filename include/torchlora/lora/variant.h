#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/layer_function.h>

namespace torchlora {

class LoraLayer;

/// An additional tensor of an adapter, such as DoRA's magnitude: its name, its
/// value, and how the layer registers it.
struct VariantTensor {
  /// How the LoRA layer registers the tensor; NAME is `name`, ADAPTER the
  /// adapter's name.
  enum Kind {
    /// As the trained parameter `NAME.ADAPTER.weight` of a submodule.
    kModule,
    /// As the trained parameter `NAME.ADAPTER`.
    kParameter,
    /// As the buffer `NAME.ADAPTER`, which is saved and not trained.
    kBuffer,
  };
  /// PEFT's name of the tensor, which is also its key in files, for example
  /// "lora_magnitude_vector".
  std::string name;
  Tensor value;
  Kind kind;
};

/// How an adapter differs from plain LoRA, W' = W + scaling · B A: one object
/// per adapter and layer, nullptr for plain LoRA. PEFT's `LoraVariant`.
///
/// There are three groups of functions. A variant whose update is still a
/// product of two factors overrides `factors`. One that changes more than the
/// sum overrides `is_additive`, `apply`, `undo` and `forward`, which must
/// agree. One that only changes what training stores for the gradient of A
/// overrides `compresses`, `compress` and `grad_A`.
class TORCHLORA_API LoraVariant {
 public:
  virtual ~LoraVariant();

  /// Returns the tensors that the adapter has besides A and B. The layer
  /// registers and saves them. Default: none.
  virtual std::vector<VariantTensor> tensors() const {
    return {};
  }

  /// Recomputes the variant's tensors from the adapter's factors. The layer
  /// calls it when the adapter has been created and after `replace_factors`,
  /// not after an optimizer step or a load. `base_weight` is the base weight's
  /// matrix without any update. Default: does nothing.
  virtual void reset(
      const LoraAdapter& /*adapter*/,
      const Tensor& /*base_weight*/) {}

  /// Returns the pair (A, B) whose product the update scaling · B A uses,
  /// differentiable by the adapter's tensors. Default: the adapter's own
  /// factors.
  virtual std::pair<Tensor, Tensor> factors(const LoraAdapter& adapter) const {
    return {adapter.lora_A->weight, adapter.lora_B->weight};
  }

  /// Returns whether the layer may have no other adapter, because this variant
  /// changed the base weight for itself (KaSA). Default: false.
  virtual bool excludes_others() const {
    return false;
  }

  /// Returns whether the adapted weight is W + scaling · B A for the pair that
  /// `factors` returns. If not (DoRA), the layer calls `apply`, `undo` and
  /// `forward`. Default: true.
  virtual bool is_additive() const {
    return true;
  }
  /// The result of `apply`: the adapted weight, and what is needed to undo it.
  struct Applied {
    Tensor weight;
    /// A tensor that `undo` and a forward with disabled adapters need, such as
    /// DoRA's row factors; undefined if none.
    Tensor memory = {};
  };
  /// Returns `weight` with this adapter's update in it, as a new differentiable
  /// tensor. `weight` may contain the updates of earlier adapters;
  /// `base_weight` contains none; `delta` is scaling · B A. All are
  /// [out_features, in_features · kernel elements]. Called by a merge and for a
  /// dense adapted weight.
  virtual Applied apply(
      const LoraAdapter& /*adapter*/,
      const Tensor& weight,
      const Tensor& /*base_weight*/,
      const Tensor& delta) const {
    return {weight + delta};
  }
  /// Returns the weight that `apply` was called with, given its result
  /// `weight`, `delta` and `memory`. Default: `weight` − `delta`.
  virtual Tensor undo(
      const Tensor& weight,
      const Tensor& delta,
      const Tensor& /*memory*/) const {
    return weight - delta;
  }
  /// Returns the layer's output with this adapter's update in it. The layer
  /// calls it if the variant is not additive. `output` is the output without
  /// bias and without this update. If `update.memory` is defined, the update is
  /// merged and must be removed.
  virtual Tensor forward(
      const LayerFunction& layer,
      const LayerCall& call,
      const Tensor& output,
      const ActiveUpdate& update) const;
  /// Returns the factor [out_features] per output channel if the adapted output
  /// is that factor times (W x + update) in this call; the layer then computes
  /// W x and the update as one product and does not call `forward`. Undefined
  /// (default) otherwise.
  virtual Tensor output_scale(
      const LayerFunction& /*layer*/,
      const ActiveUpdate& /*update*/) const {
    return {};
  }

  /// Returns whether training stores `compress(x)` instead of the layer's input
  /// x to compute the gradient of A. Default: false.
  virtual bool compresses() const {
    return false;
  }
  /// Returns the tensors that the forward stores instead of the input `x`
  /// [tokens, in_features]. Called in training if `compresses()`; may update
  /// the variant's state.
  virtual std::vector<Tensor> compress(const Tensor& /*x*/) {
    return {};
  }
  /// Returns the gradient of A [r, in_features]. `grad_Ax` [tokens, r] is the
  /// gradient of A x and `compressed` is what `compress` returned for x. Called
  /// in backward.
  virtual Tensor grad_A(
      const Tensor& /*grad_Ax*/,
      const std::vector<Tensor>& /*compressed*/,
      int64_t /*in_features*/) const {
    return {};
  }
};

/// The arguments of `LoraVariantType::create`.
struct VariantArguments {
  const LoraConfig& config;
  /// The weight of the base layer. `create` must not write to it.
  const BaseWeight& base;
  /// The new adapter; its rank, scaling and factors are set.
  const LoraAdapter& adapter;
  /// Converts a tensor to the dtype and device of the base weight, then to the
  /// adapter's dtype.
  const std::function<Tensor(const Tensor&)>& as_parameter;
  /// Whether tensors from a file will overwrite the adapter's tensors
  /// afterwards.
  bool is_loaded;
};

/// One entry of the table of variants: how a configuration asks for the variant
/// and how to create it.
struct LoraVariantType {
  /// The name of the `LoraConfig` option that turns the variant on, for example
  /// "use_dora".
  const char* name;
  /// Returns whether `config` asks for this variant.
  bool (*matches)(const LoraConfig& config);
  /// Throws ValueError if the variant does not support the configuration.
  void (*check)(const LoraConfig& config);
  /// Returns names and sizes of the tensors that the variant will have
  /// (`LoraVariant::tensors`), without creating it. The file reader needs them.
  std::vector<AdapterTensorSpec> (
      *specs)(const BaseWeight& base, int64_t r, const LoraConfig& config);
  /// Creates the variant of a new adapter. If it sets `base_weight` to a matrix
  /// in the shape of `BaseWeight::matrix`, the layer overwrites the base weight
  /// with it afterwards.
  std::shared_ptr<LoraVariant> (
      *create)(const VariantArguments& arguments, Tensor& base_weight);
  /// Whether only layers with `LayerFunction::is_linear` support the variant.
  bool is_linear_only = false;
  /// Whether `create` sets `base_weight`, that is, the variant changes the base
  /// weight.
  bool modifies_base = false;
  /// Whether `path_initial_model_for_weight_conversion` can save such an
  /// adapter.
  bool is_convertible = true;
  /// Whether `hotswap_adapter` can replace such an adapter.
  bool is_swappable = true;
};

/// Returns the table entry of the variant that `config` asks for; nullptr for
/// plain LoRA.
TORCHLORA_API const LoraVariantType* find_variant(const LoraConfig& config);

/// Whether the initializer or the variant of a configuration changes the base
/// weight.
TORCHLORA_API bool modifies_base(const LoraConfig& config);

} // namespace torchlora
