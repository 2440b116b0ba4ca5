#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/layer_function.h>
#include <torchlora/lora/tuner_layer.h>
#include <torchlora/nn/redirect.h>

namespace torchlora {

class LayerBinding;
struct MixedBatch;

/// The layer that takes the place of an adapted base layer in the module tree.
/// Its children are `base_layer` (the original, which sends its forward here),
/// `lora_A`, `lora_B` and the tensors of variants. PEFT's `LoraLayer`.
///
/// Any number of adapters may be active. They act in turn on the weight W:
///
///     W ← W + scaling · B A, or what the adapter's variant computes from it
///
/// Dropout acts on the input of an update. While adapters are merged, the base
/// layer's own forward contains their updates. While adapters are disabled, the
/// layer computes what the base layer does, less the merged updates.
///
/// A layer type derives from it, overrides functions of `LayerFunction` and is
/// added to the registry (`lora/registry.h`).
class TORCHLORA_API LoraLayer : public Module,
                                public nn::ForwardTarget,
                                public TunerLayer,
                                public LayerFunction {
 public:
  /// The factor names. A layer type with other names declares its own.
  static constexpr FactorNames kFactorNames{};

  /// Makes a LoRA layer without adapters; `bind` redirects `redirectable`
  /// (default: the base layer) to it, or puts the weight overlay on a base
  /// layer that is not `nn::Redirectable`. ValueError if neither is possible.
  LoraLayer(
      std::shared_ptr<Module> base_layer,
      BaseWeightAccessor accessor,
      const FactorNames& factor_names = kFactorNames,
      nn::Redirectable* redirectable = nullptr);
  ~LoraLayer() override;

  /// Computes the adapted layer, [*, in_features] → [*, out_features], in the
  /// base layer's output dtype. ValueError if the base layer is not
  /// `nn::Redirectable` and its forward takes more than one tensor.
  Tensor forward(const Tensor& input) final;
  /// Returns the weight that the forward computes with now, without dropout, in
  /// the base weight's sizes and dtype; differentiable by the factors.
  /// ValueError with a mixed batch.
  Tensor adapted_weight() const;
  /// Returns scaling · B A of an adapter in the shape of
  /// `base_weight().matrix()`, in the factors' dtype, as PEFT does.
  Tensor get_delta_weight(const std::string& adapter_name) const;

  const std::shared_ptr<Module>& base_layer() const {
    return base_layer_;
  }
  BaseWeight base_weight() const override;
  /// Returns the base weight's matrix without merged updates.
  Tensor unmerged_matrix() const;
  const FactorNames& factor_names() const {
    return factor_names_;
  }

  /// Makes every forward of the base layer compute this layer, until `unload`.
  void bind();
  /// Sets the function by which `forward` runs a base layer that is not
  /// `nn::Redirectable`. The registry calls it.
  void set_base_forward(
      std::function<Tensor(Module&, const Tensor&)> base_forward) {
    base_forward_ = std::move(base_forward);
  }
  /// @{
  /// Moves or converts the layer. The weight overlay follows.
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false)
      override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
  /// @}
  /// Throws c10::Error, as an adapted layer cannot be cloned: unload first.
  std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// Adds an adapter, inactive and frozen. Its factors are drawn in fp32 and
  /// rounded to the base weight's dtype; with `autocast_adapter_dtype` fp16 and
  /// bf16 factors are then stored as fp32. ValueError if the name is taken or
  /// the configuration does not fit.
  void update_layer(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true);
  /// First step of `update_layer`: makes and registers the factors and the
  /// variant's tensors, without changing the base weight. `statistics` and
  /// `is_loaded` are those of `init::Arguments`.
  void prepare_adapter(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true,
      const Tensor& statistics = {},
      bool is_loaded = false);
  /// Second step of `update_layer`: writes the base weight that the initializer
  /// or variant computed, which cannot fail, or subtracts scaling · B A if the
  /// initializer's trait `modifies_base` says so. Returns whether it
  /// subtracted. If it throws, the base weight is as before.
  bool commit_adapter(const std::string& adapter_name);
  /// Throws ValueError if the initializer or variant of `config` changes the
  /// base weight and must not: another adapter depends on it, or the weight
  /// cannot be written to.
  void check_base_may_change(const LoraConfig& config) const;
  /// Overwrites an adapter's factors with A [r, in_features · kernel elements]
  /// and B [out_features, r] of any rank r, and sets its alpha and scaling. The
  /// dtype stays; equal sizes are written in place. ValueError if it is merged.
  void replace_factors(
      const std::string& adapter_name,
      const Tensor& A,
      const Tensor& B,
      double lora_alpha,
      bool use_rslora);
  /// Gives the adapter of the name `before.name` the factors, alpha and scaling
  /// of `before`, a copy of it from before `replace_factors`. Copies no values
  /// and allocates no tensor.
  void restore_adapter(const LoraAdapter& before);
  const std::list<LoraAdapter>& adapters() const {
    return adapters_.all();
  }
  /// Returns the adapter of this name or nullptr; valid until it is deleted.
  const LoraAdapter* find_adapter(const std::string& adapter_name) const {
    return adapters_.find(adapter_name);
  }

  /// Sets the dropout probability of all adapters.
  void set_lora_dropout(double probability);
  /// @{
  /// `set_scale` sets an adapter's scaling to `scale` times its default; the
  /// others multiply or divide those of the active adapters (`unscale_layer()`
  /// resets them). ValueError for a merged adapter.
  void set_scale(const std::string& adapter_name, double scale);
  void scale_layer(double scale);
  void unscale_layer(std::optional<double> scale = std::nullopt);
  /// @}

  bool has(const std::string& adapter_name) const override {
    return find_adapter(adapter_name) != nullptr;
  }
  const AdapterStates& states() const override {
    return adapters_.states();
  }
  NamedTensors adapter_state(const std::string& adapter_name) const override;
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false) override;
  void set_requires_grad(const std::string& adapter_name, bool requires_grad)
      override;
  void enable_adapters(bool enabled) override;
  void delete_adapter(const std::string& adapter_name) override;
  void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const override;
  void merge(const std::vector<std::string>& adapter_names = {}) override;
  void check_unmergeable() const override;
  void unmerge(size_t count = 0) override;
  void unload() override;
  /// See `AdapterSet::not_merged`.
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const {
    return adapters_.not_merged(adapter_names);
  }

  /// Calls `observer` in every forward with the vectors that the weight matrix
  /// is multiplied by, as rows [n, in_features · kernel elements] without a
  /// gradient. An empty function ends it.
  void set_input_observer(std::function<void(const Tensor& rows)> observer) {
    observer_ = std::move(observer);
  }

  /// Makes this thread's forwards of the layers in `batch` follow it while it
  /// lives. Of several batches for one layer the last counts. `MixedBatchGuard`
  /// calls it. NOTE: virtual, so that the copy of the library that made the
  /// layer knows the batch.
  virtual void begin_mixed_batch(
      const std::shared_ptr<const MixedBatch>& batch) const;

  /// Prints the name, rank and scaling of each adapter.
  void pretty_print(std::ostream& stream) const override;

 protected:
  /// Computes the forward for `updates`, with biases, dropout and variants.
  /// `updates` is empty only if `base_forward_writes()`.
  virtual Tensor adapted_forward(const LayerCall& call, ActiveUpdates updates);

  std::vector<std::string> adapter_names() const override {
    return adapters_.names();
  }

 private:
  friend class RedirectBinding;
  friend class WeightOverlay;

  /// NOTE: virtual, so that a layer of another library copy runs that copy's.
  virtual Tensor run(const Tensor& input, const WeightOperation* operation);
  std::vector<ActiveUpdate> active_updates() const;
  bool has_bias_update(const std::vector<std::string>& adapter_names) const;
  void check_writable(const char* function, bool writes_bias) const;
  void check_merge(const std::vector<std::string>& adapter_names) const;
  bool is_base(ActiveUpdates updates) const;
  static const char* why_not_dense(ActiveUpdates updates);
  Tensor mixed_forward(const LayerCall& call, ActiveUpdates updates) const;
  void register_variants();
  Tensor delta(const LoraAdapter& adapter) const;
  Tensor memory_of(const LoraAdapter& adapter) const;

  std::shared_ptr<Module> base_layer_;
  BaseWeightAccessor accessor_;
  std::shared_ptr<LayerBinding> binding_;
  std::function<Tensor(Module&, const Tensor&)> base_forward_;
  FactorNames factor_names_;
  std::shared_ptr<AdapterDict> lora_A_, lora_B_;
  AdapterSet<LoraAdapter> adapters_;
  /// The base weight that `commit_adapter` will write; undefined if none.
  Tensor next_base_weight_;
  std::function<void(const Tensor& rows)> observer_;
};

} // namespace torchlora
