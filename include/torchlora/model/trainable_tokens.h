#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/tuner_layer.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora {

/// Rows of the weight of an `nn::Embedding` or `nn::Linear` that adapters
/// train (`trainable_token_indices`): the layer's child `token_adapter`, which
/// it is redirected to, with the parameters `trainable_tokens_delta.default`
/// [k, dim]. They take the place of the weight's rows in the layer and in those
/// that are tied to it; the weight itself is changed by a merge only. PEFT's
/// `TrainableTokensLayer`.
class TORCHLORA_API TrainableTokens : public torch::nn::Module,
                                      public TunerLayer {
 public:
  /// @{
  /// Names in the module tree, which are PEFT's.
  static constexpr auto kName = "token_adapter";
  static constexpr auto kDelta = "trainable_tokens_delta";
  /// @}

  /// The rows of one adapter.
  struct Adapter {
    std::string name;
    /// Row i of `delta` takes the place of row indices[i].
    std::vector<int64_t> indices;
    /// [k, dim], the parameter.
    Tensor delta;
    /// The rows that a merge wrote over; undefined unless merged.
    Tensor original = {};
  };

  /// Redirects nothing yet. `layer_name` is for messages.
  TrainableTokens(
      const std::shared_ptr<torch::nn::Module>& layer,
      std::string layer_name);
  ~TrainableTokens() override;

  /// Redirects the layer, or one that computes with the same weight.
  void bind(const std::shared_ptr<torch::nn::Module>& layer);
  /// Returns the layer's weight.
  Tensor weight() const;

  /// Adds an adapter, inactive and frozen, whose rows are the base weight's, in
  /// its dtype; with `autocast_adapter_dtype` fp32 for fp16 and bf16.
  /// ValueError for indices that are none, negative, too large or given twice.
  void add_adapter(
      const std::string& adapter_name,
      const std::vector<int64_t>& indices,
      bool autocast_adapter_dtype);
  /// In the order in which they were added.
  const std::list<Adapter>& adapters() const {
    return adapters_.all();
  }
  /// nullptr if there is none; valid until the adapter is deleted.
  const Adapter* find_adapter(const std::string& adapter_name) const {
    return adapters_.find(adapter_name);
  }

  bool has(const std::string& adapter_name) const override {
    return find_adapter(adapter_name) != nullptr;
  }
  const AdapterStates& states() const override {
    return adapters_.states();
  }
  std::vector<std::pair<std::string, Tensor>> adapter_state(
      const std::string& adapter_name) const override;
  /// ValueError if two of the adapters have rows of one index.
  void check_set_adapter(
      const std::vector<std::string>& adapter_names) const override;
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false) override;
  void enable_adapters(bool enabled) override;
  void delete_adapter(const std::string& adapter_name) override;
  void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const override;
  /// Writes the rows into the weight and keeps its own.
  void merge(const std::vector<std::string>& adapter_names = {}) override;
  void unmerge() override;
  /// Ends all redirections and takes this out of the layer.
  void unload() override;

  /// Returns the rows of the active adapters; while adapters are merged none,
  /// and while merged ones are disabled the weight's own.
  std::optional<nn::ReplacedRows> replaced_rows() const;
  /// Whether a row of an active adapter is not the weight's.
  bool changes_something() const;

 protected:
  std::vector<std::string> adapter_names() const override {
    return adapters_.names();
  }

 private:
  struct BoundLayer;

  Tensor base_rows(const std::vector<int64_t>& indices) const;
  void write(const std::vector<int64_t>& indices, const Tensor& rows);
  void update_shown();

  std::string layer_name_;
  std::weak_ptr<torch::nn::Module> layer_;
  std::vector<std::unique_ptr<BoundLayer>> bound_;
  std::shared_ptr<AdapterDict> deltas_;
  AdapterSet<Adapter> adapters_;
  /// For `replaced_rows`: the adapters, their indices in ascending order, and
  /// the places of those in what the adapters have (undefined: in that order).
  std::vector<std::string> shown_;
  std::vector<int64_t> indices_;
  Tensor index_, order_;
};

} // namespace torchlora
