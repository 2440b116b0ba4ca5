#pragma once

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/export.h>
#include <torchlora/init/initializer.h>
#include <torchlora/lora/adapter.h>
#include <torchlora/nn/redirect.h>

namespace torchlora {

struct WeightOperation;
class WeightOverlay;

/// How a type of layer uses its weight: by which of LibTorch's operations an
/// unmodified layer (`lora/overlay.h`) of that type gets its update in low-rank
/// form. All others see the dense adapted weight.
enum class WeightUse {
  /// By none.
  kDense,
  /// By linear, matmul, mm or addmm.
  kLinear,
  /// By embedding.
  kEmbedding,
  /// By conv1d, conv2d or conv3d.
  kConvolution,
  /// By conv_transpose1d, 2d or 3d.
  kTransposedConvolution,
  /// By bilinear.
  kBilinear,
};

/// Which elements of a batch, along its first dimension, go through which
/// adapter; the others through none.
struct MixedBatch {
  /// Of the batch.
  int64_t size = 0;
  /// Adapter names and int64 indices.
  std::vector<std::pair<std::string, at::Tensor>> rows;
};

/// The layer that takes the place of an adapted one in the module tree:
/// children `base_layer` (the original, which is redirected to this layer),
/// `lora_A`, `lora_B` and `lora_magnitude_vector` (by adapter name). PEFT's
/// `LoraLayer`.
///
/// Any number of adapters may be active, each on what the one before gave:
///
///     LoRA   W ← W + scaling · B A
///     DoRA   W ← m / ‖W₀ + scaling · B A‖ · (W + scaling · B A)
///
/// with the norm of each row, of the base weight W₀, constant in backward.
/// Dropout acts on the input of an update (of a DoRA layer's base product
/// too). While adapters are merged into the base weight, its own forward holds
/// them; while adapters are disabled the layer is the base layer (a merged
/// update is taken out in the low-rank path, the weight is left alone).
///
/// A base layer that is not `nn::Redirectable` is adapted through its weight
/// member (`lora/overlay.h`).
///
/// A layer type derives from it, implements its pure functions and is
/// entered in the registry (`lora/registry.h`). Not cloneable: unload first.
class TORCHLORA_API LoraLayer : public torch::nn::Module,
                                public nn::ForwardTarget {
 public:
  /// A layer type with other names hides it by its own.
  static constexpr FactorNames kFactorNames{};

  /// `redirectable`: what is redirected, if it is not the base layer.
  LoraLayer(
      std::shared_ptr<torch::nn::Module> base_layer,
      BaseWeightAccessor accessor,
      const FactorNames& factor_names = kFactorNames,
      nn::Redirectable* redirectable = nullptr);
  ~LoraLayer() override;

  /// [*, in_features] → [*, out_features], in the base layer's output dtype.
  /// ValueError for an unmodified base layer that does not take one tensor.
  at::Tensor forward(const at::Tensor& input) final;
  /// The weight that the layer computes with, its adapters in it, without
  /// dropout; in the sizes and the dtype of the base weight, differentiable by
  /// the factors. ValueError with a mixed batch.
  at::Tensor adapted_weight() const;
  /// scaling · B A of an adapter, shaped like `base_weight().matrix()`, in
  /// the factors' dtype. PEFT's `get_delta_weight`.
  at::Tensor delta_weight(const std::string& adapter_name) const;

  /// The layer that this one took the place of.
  const std::shared_ptr<torch::nn::Module>& base_layer() const {
    return base_layer_;
  }
  /// Its weight, the raw one.
  BaseWeight base_weight() const;

  /// As this type of layer calls its factors.
  const FactorNames& factor_names() const {
    return factor_names_;
  }

  /// Redirects the base layer here, and back.
  void bind();
  /// Ends the redirection.
  void unbind();
  /// Whether it is adapted without the weight overlay (`lora/overlay.h`).
  bool has_dense_weight() const;
  /// Of an unmodified layer that holds a dense weight (`lora/overlay.h`): makes
  /// it anew from the factors. Does nothing for all others.
  void refresh_weight();
  /// What `forward` calls of an unmodified base layer.
  void set_base_forward(
      std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>
          base_forward) {
    base_forward_ = std::move(base_forward);
  }
  /// @{
  /// As `torch::nn::Module::to`; an unmodified base layer follows.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false)
      override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
  /// Throws: unload first.
  /// @}
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// Adds an adapter, inactive and frozen. Its factors are drawn in fp32 and
  /// rounded to the base weight's dtype; with `autocast_adapter_dtype` those
  /// of fp16 and bf16 layers are then fp32. An initialiser that takes its
  /// update out of the base weight does so with the rounded factors.
  /// ValueError if `r` < 1, the dropout is outside [0, 1), there is such an
  /// adapter already or the configuration does not fit the layer.
  void update_layer(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true);
  /// The two steps of `update_layer`: the first may throw and leaves the base
  /// weight alone, the second changes it. `statistics` and `is_loaded` as in
  /// `init::Arguments`.
  void prepare_adapter(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true,
      const at::Tensor& statistics = {},
      bool is_loaded = false);
  /// The second step of `prepare_adapter`.
  void commit_adapter(const std::string& adapter_name);
  /// Gives an adapter other factors, the matrices A [r, in_features · kernel
  /// elements] and B [out_features, r] of any r, in the dtype it has; in place
  /// where the sizes are the same.
  /// ValueError if it is merged.
  void replace_factors(
      const std::string& adapter_name,
      const at::Tensor& A,
      const at::Tensor& B,
      double lora_alpha,
      bool use_rslora);
  /// Does nothing if there is no such adapter; ValueError if it is merged.
  void delete_adapter(const std::string& adapter_name);
  /// In the order in which they were added.
  const std::list<LoraAdapter>& adapters() const {
    return adapters_;
  }
  /// nullptr if there is none; valid until the adapter is deleted.
  const LoraAdapter* find_adapter(const std::string& adapter_name) const;

  /// Sets the dropout of all adapters of the layer.
  void set_lora_dropout(double probability) {
    check_overlay(probability > 0, "set_lora_dropout");
    for (auto& adapter : adapters_) {
      adapter.lora_dropout = probability;
    }
  }

  /// Makes these adapters active (names the layer does not have are skipped)
  /// and trainable unless `inference_mode`; all others are frozen.
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  /// In the order in which they act.
  const std::vector<std::string>& active_adapters() const {
    return active_adapters_;
  }
  /// Whether the forward has adapters in it; leaves `requires_grad` alone.
  void enable_adapters(bool enabled);
  /// Whether `enable_adapters` has them on.
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
  /// In the order in which they were merged.
  const std::vector<std::string>& merged_adapters() const {
    return merged_adapters_;
  }
  /// Of these adapters (empty: the active ones) those that a merge would add
  /// to the base weight: the layer has them, and they are not merged.
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const;
  /// Whether an adapter is merged.
  bool merged() const {
    return !merged_adapters_.empty();
  }

  /// Until it is set to nullptr, every forward sends each element of its batch
  /// through one adapter, whatever is active; those that the layer does not
  /// have are skipped. For `MixedBatchGuard`, which checks what it may be.
  void set_mixed_batch(std::shared_ptr<const MixedBatch> batch);
  /// Shows `observer` what the weight is multiplied by in every forward from
  /// now on: rows [n, in_features · kernel elements], without a gradient. An
  /// empty one ends it.
  void observe(std::function<void(const at::Tensor& rows)> observer);

  /// Names, ranks and scalings of the adapters.
  void pretty_print(std::ostream& stream) const override;

 protected:
  /// An adapter's share of a forward.
  struct Term {
    /// The layer's.
    const LoraAdapter* adapter;
    /// Negative where a merged update is taken out.
    double scaling;
    /// 0 outside of training.
    double dropout;
    /// Of a merged DoRA update: what its rows were multiplied by.
    at::Tensor merged_scale = {};
    /// Of a mixed batch: the elements (int64) that the adapter is for.
    at::Tensor rows = {};
  };

  /// Factors as PEFT constructs them for this type of layer, drawn in fp32, as
  /// matrices.
  virtual init::Factors construct_factors(const LoraConfig& config, int64_t r)
      const;
  /// The initialiser that a value of `init_lora_weights` means for this layer
  /// type.
  virtual init::Initializer find_initializer(
      const InitLoraWeights& value) const;
  /// The rows that the weight is multiplied by for an input, see `observe`.
  /// ValueError of a layer type that does not tell.
  virtual at::Tensor weight_input(const at::Tensor& input) const;
  /// ValueError if the layer cannot have an adapter of this configuration.
  virtual void check_config(const LoraConfig& /*config*/) const {}
  /// How the layer type uses its weight.
  virtual WeightUse weight_use() const {
    return WeightUse::kDense;
  }
  /// Of an unmodified layer in a forward: the operation at work on its weight,
  /// with other tensors; `bias` may be undefined.
  at::Tensor operation(
      const at::Tensor& input,
      const at::Tensor& weight,
      const at::Tensor& bias) const;
  /// Of a tensor with a row for each output channel those that the operation
  /// at work computes.
  at::Tensor rows_of_operation(const at::Tensor& tensor) const;
  /// Whether the base layer does not know torchlora.
  bool is_unmodified() const {
    return !redirectable_;
  }
  /// Whether the base layer's own forward writes to its weight, which must not
  /// be while an update is merged into it.
  virtual bool base_forward_writes() const {
    return false;
  }
  /// Whether `product` acts on an adapter's `velora`.
  virtual bool supports_velora() const {
    return false;
  }

  /// The layer with W + Σ scaling · B A in place of W and with `bias`
  /// (undefined: none). `terms` may be empty.
  virtual at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) = 0;
  /// scaling · B A of the term applied to the input, with its dropout.
  virtual at::Tensor update(const at::Tensor& input, const Term& term) = 0;
  /// `product` of a layer type that adds up: the base weight's output and the
  /// terms' updates, in its dtype.
  at::Tensor with_updates(
      at::Tensor output,
      const at::Tensor& input,
      const std::vector<Term>& terms);
  /// [out_features] in a shape that broadcasts against the output.
  virtual at::Tensor per_channel(const at::Tensor& values) const {
    return values;
  }
  /// The whole of an adapted forward; `terms` is empty only of a layer with
  /// `base_forward_writes`.
  virtual at::Tensor adapted_forward(
      const at::Tensor& input,
      const std::vector<Term>& terms);

 private:
  friend class WeightOverlay;
  std::vector<Term> terms() const;
  /// Whether the base layer's forward is the layer's now.
  bool is_base(const std::vector<Term>& now) const {
    return now.empty() && !(merged() && base_forward_writes());
  }
  /// What every forward starts with: its terms.
  std::vector<Term> start(const at::Tensor& input) const;
  /// NOTE: virtual, so that a layer of another copy of the library in the
  /// process runs that copy's.
  virtual at::Tensor run(
      const at::Tensor& input,
      const WeightOperation& operation);
  at::Tensor bias() const;
  const char* why_not_dense() const;
  void follow_base();
  void check_overlay(bool is_needed, const char* function) const;
  const LoraAdapter& at(const std::string& adapter_name) const;
  void register_velora();
  void check_not_merged(const std::string& adapter_name, const char* function)
      const;
  init::Factors zero_factors(const LoraConfig& config, int64_t r) const;
  void reset_magnitude(const LoraAdapter& adapter);
  at::Tensor norms(const LoraAdapter& adapter, const at::Tensor& weight) const;
  at::Tensor scale(const LoraAdapter& adapter, const at::Tensor& weight) const;
  at::Tensor with_term(
      const at::Tensor& output,
      const at::Tensor& input,
      const Term& term);
  at::Tensor mixed_forward(
      const at::Tensor& input,
      const std::vector<Term>& terms);

  friend void merge_layers(
      const std::vector<LoraLayer*>& layers,
      bool safe_merge,
      const std::vector<std::string>& adapter_names);
  void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const;
  void merge_adapter(const LoraAdapter& adapter);
  at::Tensor unmerged_matrix() const;

  std::shared_ptr<torch::nn::Module> base_layer_;
  nn::Redirectable* redirectable_;
  BaseWeightAccessor accessor_;
  std::shared_ptr<WeightOverlay> overlay_;
  std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>
      base_forward_;
  FactorNames factor_names_;
  std::shared_ptr<AdapterDict> lora_A_, lora_B_, lora_magnitude_vector_;
  std::list<LoraAdapter> adapters_;
  std::vector<std::string> active_adapters_, merged_adapters_;
  /// Of `merged_adapters_`; undefined without DoRA.
  std::vector<at::Tensor> merged_scales_;
  bool enabled_ = true;
  std::shared_ptr<const MixedBatch> mixed_batch_;
  /// Of the adapter that is prepared and not committed.
  at::Tensor next_base_weight_;
  std::function<void(const at::Tensor& rows)> observer_;
};

/// `LoraLayer::merge` on many layers as one: warns once, and with
/// `safe_merge` nothing is written anywhere if a value is not finite.
TORCHLORA_API void merge_layers(
    const std::vector<LoraLayer*>& layers,
    bool safe_merge,
    const std::vector<std::string>& adapter_names);

} // namespace torchlora
