#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/layer_function.h>

namespace torchlora {

class LoraLayer;

/// A tensor that the adapter has beside its factors.
struct VariantTensor {
  enum Kind {
    /// `NAME.ADAPTER.weight`, a parameter of a module.
    kModule,
    /// `NAME.ADAPTER`, a parameter.
    kParameter,
    /// `NAME.ADAPTER`, a buffer: saved, not trained.
    kBuffer,
  };
  /// PEFT's name, which is the key in files too.
  std::string name;
  Tensor value;
  Kind kind;
};

/// How an adapter differs from plain LoRA, W' = W + scaling · B A: one object
/// per adapter and layer, nullptr for plain LoRA. PEFT's `LoraVariant`.
///
/// Three kinds need three sets of hooks. A variant whose update is still a
/// product of two factors overrides `factors`. One that changes the sum
/// overrides `is_additive`, `apply`, `undo` and `forward`, which must agree.
/// One that changes only what training keeps overrides `compresses`,
/// `compress` and `grad_A`.
class TORCHLORA_API LoraVariant {
 public:
  virtual ~LoraVariant();

  /// Returns the tensors that the adapter has beside its factors.
  virtual std::vector<VariantTensor> tensors() const {
    return {};
  }

  /// Follows the factors after they changed. `base_weight` is the base
  /// weight's matrix without any update.
  virtual void reset(
      const LoraAdapter& /*adapter*/,
      const Tensor& /*base_weight*/) {}

  /// Returns the A and B of the update scaling · B A, differentiable by the
  /// adapter's tensors.
  virtual std::pair<Tensor, Tensor> factors(const LoraAdapter& adapter) const {
    return {adapter.lora_A->weight, adapter.lora_B->weight};
  }

  /// Whether the layer may have no other adapter, as an adapter is trained on
  /// the original base weight and would be loaded onto that.
  virtual bool excludes_others() const {
    return false;
  }

  /// Whether the adapted weight is W + delta.
  virtual bool is_additive() const {
    return true;
  }
  struct Applied {
    Tensor weight;
    /// What `undo` and a disabled forward need; undefined if nothing.
    Tensor memory = {};
  };
  /// Returns the weight with the update in it, out of place and
  /// differentiable: `weight` (adapters before this one may be in it) and
  /// `delta` = scaling · B A, both [out_features, in_features · kernel
  /// elements]. `base_weight` is the weight without any update.
  virtual Applied apply(
      const LoraAdapter& /*adapter*/,
      const Tensor& weight,
      const Tensor& /*base_weight*/,
      const Tensor& delta) const {
    return {weight + delta};
  }
  /// Inverts `apply`.
  virtual Tensor undo(
      const Tensor& weight,
      const Tensor& delta,
      const Tensor& /*memory*/) const {
    return weight - delta;
  }
  /// Returns the layer's output with the update in it, for a variant that is
  /// not additive. `output` is the layer's without bias and without this
  /// update; `update.memory` is defined where a merged update is taken out.
  virtual Tensor forward(
      const LayerFunction& layer,
      const LayerCall& call,
      const Tensor& output,
      const ActiveUpdate& update) const;
  /// Returns the factors [out_features] of the output, for a variant that is
  /// `output_scale · (W x + update)` in this call; undefined if it is not. The
  /// layer then computes W x and the update as one product.
  virtual Tensor output_scale(
      const LayerFunction& /*layer*/,
      const ActiveUpdate& /*update*/) const {
    return {};
  }

  /// Whether training keeps `compress(x)` instead of the input x for the
  /// gradient of A.
  virtual bool compresses() const {
    return false;
  }
  /// Returns what is kept of x [tokens, in_features].
  virtual std::vector<Tensor> compress(const Tensor& /*x*/) {
    return {};
  }
  /// Returns the gradient of A [r, in_features] by that of A x [tokens, r] and
  /// what `compress` returned.
  virtual Tensor grad_A(
      const Tensor& /*grad_Ax*/,
      const std::vector<Tensor>& /*compressed*/,
      int64_t /*in_features*/) const {
    return {};
  }
};

/// What a variant starts from.
struct VariantArguments {
  const LoraConfig& config;
  /// To read.
  const BaseWeight& base;
  /// With its rank, scaling and factors.
  const LoraAdapter& adapter;
  /// Rounds a tensor to the base weight's dtype and gives it the adapter's.
  const std::function<Tensor(const Tensor&)>& as_parameter;
  /// Whether the adapter's tensors are about to be overwritten by a file's.
  bool is_loaded;
};

/// One variant: a line of the table.
struct LoraVariantType {
  /// The field of `LoraConfig` that asks for it.
  const char* name;
  bool (*matches)(const LoraConfig& config);
  /// ValueError if the layer cannot have it, or not with this configuration.
  void (*check)(const LoraLayer& layer, const LoraConfig& config);
  /// The tensors of `LoraVariant::tensors`, before there is one: names and
  /// sizes.
  std::vector<AdapterTensorSpec> (
      *specs)(const BaseWeight& base, int64_t r, const LoraConfig& config);
  /// May set `base_weight`, which replaces the base weight (a matrix like
  /// `BaseWeight::matrix`).
  std::shared_ptr<LoraVariant> (
      *create)(const VariantArguments& arguments, Tensor& base_weight);
  /// Whether `create` changes the base weight.
  bool modifies_base = false;
};

/// nullptr for plain LoRA.
TORCHLORA_API const LoraVariantType* find_variant(const LoraConfig& config);

/// Whether the initializer or the variant of a configuration changes the base
/// weight.
TORCHLORA_API bool modifies_base(const LoraConfig& config);

} // namespace torchlora
