#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/export.h>
#include <torchlora/init/initializer.h>
#include <torchlora/lora/adapter_dict.h>
#include <torchlora/lora/base_weight.h>
#include <torchlora/lora/config.h>
#include <torchlora/nn/redirect.h>

namespace torchlora {

/// One adapter of one layer: W' = W + scaling · B A.
struct LoraAdapter {
  std::string name;
  int64_t r = 0;
  double lora_alpha = 0;
  /// lora_alpha / r, with rsLoRA lora_alpha / √r.
  double scaling = 0;
  double lora_dropout = 0;
  std::shared_ptr<LoraFactor> lora_A, lora_B;
};

/// The layer that takes the place of an adapted one in the module tree:
/// children `base_layer` (the original, which is redirected to this layer),
/// `lora_A` and `lora_B` (factors by adapter name). PEFT's `LoraLayer`.
///
/// Any number of adapters may be active; their updates add up. While adapters
/// are merged into the base weight, its own forward holds them; while
/// adapters are disabled the layer is the base layer (a merged update is
/// subtracted again in the low-rank path, the weight is left alone).
///
/// A layer type derives from it, implements its pure functions and is
/// entered in the registry (`lora/registry.h`). Not cloneable: unload first.
class TORCHLORA_API LoraLayer : public torch::nn::Module,
                                public nn::ForwardTarget {
 public:
  LoraLayer(
      std::shared_ptr<torch::nn::Module> base_layer,
      BaseWeightAccessor accessor);
  ~LoraLayer() override;

  /// [*, in_features] → [*, out_features], in the base layer's output dtype.
  at::Tensor forward(const at::Tensor& input) final;
  /// scaling · B A of an adapter, [out_features, in_features], in the
  /// factors' dtype. PEFT's `get_delta_weight`.
  virtual at::Tensor delta_weight(const std::string& adapter_name) const = 0;

  const std::shared_ptr<torch::nn::Module>& base_layer() const {
    return base_layer_;
  }
  BaseWeight base_weight() const {
    return accessor_(*base_layer_);
  }

  /// Redirects the base layer here, and back.
  void bind();
  void unbind();

  /// Adds an adapter, inactive and frozen. Its factors are drawn in fp32 and
  /// rounded to the base weight's dtype; with `autocast_adapter_dtype` those
  /// of fp16 and bf16 layers are then fp32. ValueError if `r` < 1, the
  /// dropout is outside [0, 1) or there is such an adapter already.
  void update_layer(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true);
  /// Does nothing if there is no such adapter; ValueError if it is merged.
  void delete_adapter(const std::string& adapter_name);
  const std::vector<LoraAdapter>& adapters() const {
    return adapters_;
  }
  /// nullptr if there is none.
  const LoraAdapter* find_adapter(const std::string& adapter_name) const;

  /// Sets the dropout of all adapters of the layer.
  void set_lora_dropout(double probability) {
    for (auto& adapter : adapters_) {
      adapter.lora_dropout = probability;
    }
  }

  /// Makes these adapters active (names the layer does not have are skipped)
  /// and trainable unless `inference_mode`; all others are frozen.
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  const std::vector<std::string>& active_adapters() const {
    return active_adapters_;
  }
  /// Whether the forward has adapters in it; leaves `requires_grad` alone.
  void enable_adapters(bool enabled) {
    enabled_ = enabled;
  }
  bool adapters_enabled() const {
    return enabled_;
  }

  /// Adds the updates of these adapters (empty: the active ones) to the base
  /// weight, in place, in order; those that are merged already are skipped
  /// with a warning. `safe_merge`: ValueError, and nothing is written, if a
  /// merged value is not finite.
  void merge(
      bool safe_merge = false,
      const std::vector<std::string>& adapter_names = {});
  /// Subtracts the merged updates, last first.
  void unmerge();
  const std::vector<std::string>& merged_adapters() const {
    return merged_adapters_;
  }
  bool merged() const {
    return !merged_adapters_.empty();
  }

  void pretty_print(std::ostream& stream) const override;

 protected:
  /// Factors as PEFT constructs them for this type of layer, drawn in fp32.
  virtual init::Factors construct_factors(int64_t r) const = 0;

  /// An adapter's share of a forward; the scaling is negative where a merged
  /// update is taken out.
  struct Term {
    const LoraAdapter* adapter;
    double scaling;
  };
  /// The layer with W + Σ scaling · B A in place of W; `terms` is not empty.
  virtual at::Tensor adapted_forward(
      const at::Tensor& input,
      const std::vector<Term>& terms) = 0;

 private:
  std::vector<Term> terms() const;
  friend void merge_layers(
      const std::vector<LoraLayer*>& layers,
      bool safe_merge,
      const std::vector<std::string>& adapter_names);
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const;
  void check_mergeable(const std::vector<std::string>& adapter_names) const;

  std::shared_ptr<torch::nn::Module> base_layer_;
  nn::Redirectable* redirectable_;
  BaseWeightAccessor accessor_;
  std::shared_ptr<AdapterDict<LoraFactor>> lora_A_, lora_B_;
  std::vector<LoraAdapter> adapters_;
  std::vector<std::string> active_adapters_, merged_adapters_;
  bool enabled_ = true;
};

/// `LoraLayer::merge` on many layers as one: warns once, and with
/// `safe_merge` nothing is written anywhere if a value is not finite.
TORCHLORA_API void merge_layers(
    const std::vector<LoraLayer*>& layers,
    bool safe_merge,
    const std::vector<std::string>& adapter_names);

} // namespace torchlora
