#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/layer_function.h>
#include <torchlora/lora/tuner_layer.h>
#include <torchlora/nn/redirect.h>

namespace torchlora {

class LayerBinding;

/// The layer that takes the place of an adapted one in the module tree:
/// children `base_layer` (the original, which sends its forward here),
/// `lora_A`, `lora_B` and those of the adapters' variants. PEFT's `LoraLayer`.
///
/// Any number of adapters may be active, each on what the one before gave:
///
///     W ← W + scaling · B A, or what the adapter's variant makes of it
///
/// Dropout acts on the input of an update. While adapters are merged, the base
/// layer's own forward holds them; while they are disabled the layer is the
/// base layer (a merged update is taken out in the low-rank path).
///
/// A layer type derives from it, implements what of `LayerFunction` it needs
/// and is entered in the registry (`lora/registry.h`). Not cloneable: unload
/// first.
class TORCHLORA_API LoraLayer : public torch::nn::Module,
                                public nn::ForwardTarget,
                                public TunerLayer,
                                public LayerFunction {
 public:
  /// A layer type with other names hides it by its own.
  static constexpr FactorNames kFactorNames{};

  /// Will redirect `redirectable` (default: the base layer), or put the weight
  /// overlay on a base layer that is none. ValueError where neither can be.
  LoraLayer(
      std::shared_ptr<torch::nn::Module> base_layer,
      BaseWeightAccessor accessor,
      const FactorNames& factor_names = kFactorNames,
      nn::Redirectable* redirectable = nullptr);
  ~LoraLayer() override;

  /// [*, in_features] → [*, out_features], in the base layer's output dtype.
  /// ValueError for an unmodified base layer that does not take one tensor.
  Tensor forward(const Tensor& input) final;
  /// Returns the weight that the layer computes with, its adapters in it,
  /// without dropout; in the sizes and the dtype of the base weight,
  /// differentiable by the factors. ValueError with a mixed batch.
  Tensor adapted_weight() const;
  /// Returns scaling · B A of an adapter, shaped like `base_weight().matrix()`,
  /// in the factors' dtype. PEFT's `get_delta_weight`.
  Tensor get_delta_weight(const std::string& adapter_name) const;

  const std::shared_ptr<torch::nn::Module>& base_layer() const {
    return base_layer_;
  }
  BaseWeight base_weight() const override;
  /// Returns the base weight's matrix without any merged update.
  Tensor unmerged_matrix() const;
  const FactorNames& factor_names() const {
    return factor_names_;
  }

  /// Sends the base layer's forward here, until `unload`.
  void bind();
  /// Sets what `forward` calls for an unmodified base layer.
  void set_base_forward(
      std::function<Tensor(torch::nn::Module&, const Tensor&)> base_forward) {
    base_forward_ = std::move(base_forward);
  }
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false)
      override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;
  /// Throws: unload first.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// Adds an adapter, inactive and frozen. Its factors are drawn in fp32 and
  /// rounded to the base weight's dtype; with `autocast_adapter_dtype` those
  /// of fp16 and bf16 layers are then fp32. ValueError if there is such an
  /// adapter or the configuration does not fit the layer.
  void update_layer(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true);
  /// The first step of `update_layer`: leaves the base weight alone.
  /// `statistics` and `is_loaded` as in `init::Arguments`.
  void prepare_adapter(
      const std::string& adapter_name,
      int64_t r,
      double lora_alpha,
      const LoraConfig& config,
      bool autocast_adapter_dtype = true,
      const Tensor& statistics = {},
      bool is_loaded = false);
  /// The second step: changes the base weight if the initializer asks for it.
  void commit_adapter(const std::string& adapter_name);
  /// ValueError if the layer has an adapter, whose base weight would change.
  void check_base_may_change(const LoraConfig& config) const;
  /// Gives an adapter other factors, the matrices A [r, in_features · kernel
  /// elements] and B [out_features, r] of any r, in the dtype it has; in place
  /// where the sizes are the same. ValueError if it is merged.
  void replace_factors(
      const std::string& adapter_name,
      const Tensor& A,
      const Tensor& B,
      double lora_alpha,
      bool use_rslora);
  const std::list<LoraAdapter>& adapters() const {
    return adapters_.all();
  }
  /// nullptr if there is none; valid until the adapter is deleted.
  const LoraAdapter* find_adapter(const std::string& adapter_name) const {
    return adapters_.find(adapter_name);
  }

  void set_lora_dropout(double probability);
  /// @{
  /// PEFT's: sets an adapter's scaling to `scale` times the default one;
  /// multiplies and divides that of the active adapters (`unscale_layer()`:
  /// back to the default). ValueError while the adapter is merged.
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
  std::vector<std::pair<std::string, Tensor>> adapter_state(
      const std::string& adapter_name) const override;
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false) override;
  void enable_adapters(bool enabled) override;
  void delete_adapter(const std::string& adapter_name) override;
  void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const override;
  void merge(const std::vector<std::string>& adapter_names = {}) override;
  void unmerge() override;
  void unload() override;
  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const {
    return adapters_.not_merged(adapter_names);
  }

  /// Sends each element of the batches to come through one adapter, whatever
  /// is active; nullptr ends it. For `MixedBatchGuard`, which checks it.
  void set_mixed_batch(std::shared_ptr<const MixedBatch> batch) {
    mixed_batch_ = std::move(batch);
  }
  /// Shows `observer` what the weight is multiplied by in every forward: rows
  /// [n, in_features · kernel elements], without a gradient. Empty: ends it.
  void set_input_observer(std::function<void(const Tensor& rows)> observer) {
    observer_ = std::move(observer);
  }

  void pretty_print(std::ostream& stream) const override;

 protected:
  bool is_unmodified() const;
  /// The whole of an adapted forward; `updates` is empty only for a layer with
  /// `base_forward_writes`.
  virtual Tensor adapted_forward(const LayerCall& call, ActiveUpdates updates);

  std::vector<std::string> adapter_names() const override {
    return adapters_.names();
  }

 private:
  friend class RedirectBinding;
  friend class WeightOverlay;

  /// NOTE: virtual, so that a layer of another copy of the library runs that.
  virtual Tensor run(const Tensor& input, const WeightOperation* operation);
  std::vector<ActiveUpdate> active_updates() const;
  bool is_base(ActiveUpdates updates) const;
  const char* why_not_dense() const;
  Tensor mixed_forward(const LayerCall& call, ActiveUpdates updates) const;
  void register_variants();
  void reset_variant(const LoraAdapter& adapter);
  Tensor delta(const LoraAdapter& adapter) const;

  std::shared_ptr<torch::nn::Module> base_layer_;
  BaseWeightAccessor accessor_;
  std::shared_ptr<LayerBinding> binding_;
  std::function<Tensor(torch::nn::Module&, const Tensor&)> base_forward_;
  FactorNames factor_names_;
  std::shared_ptr<AdapterDict> lora_A_, lora_B_;
  AdapterSet<LoraAdapter> adapters_;
  std::shared_ptr<const MixedBatch> mixed_batch_;
  /// For the adapter that is prepared and not committed.
  Tensor next_base_weight_;
  std::function<void(const Tensor& rows)> observer_;
};

} // namespace torchlora
