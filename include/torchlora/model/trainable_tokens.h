#pragma once

#include <torchlora/lora/adapter.h>
#include <torchlora/lora/tuner_layer.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora {

/// The rows of the weight of one `nn::Embedding` or `nn::Linear` that adapters
/// train (`trainable_token_indices`). It is the layer's child `token_adapter`,
/// and the layer redirects its forward to it. Each adapter has a parameter
/// `trainable_tokens_delta.NAME` [k, dim], whose rows replace k rows of the
/// weight in the layer and in layers tied to it. Only a merge writes to the
/// weight itself. PEFT's `TrainableTokensLayer`.
class TORCHLORA_API TrainableTokens : public Module, public TunerLayer {
 public:
  /// @{
  /// The names that this module and its parameters have in the module tree, as
  /// in PEFT.
  static constexpr auto kName = "token_adapter";
  static constexpr auto kDelta = "trainable_tokens_delta";
  /// @}

  /// The trained rows of one adapter.
  struct Adapter {
    std::string name;
    /// The row numbers in the weight: row i of `delta` replaces row indices[i].
    std::vector<int64_t> indices;
    /// The trained rows [k, dim], a parameter.
    Tensor delta;
    /// The k rows of the weight that a merge overwrote, which unmerging
    /// restores. Undefined while not merged.
    Tensor original = {};
  };

  /// Makes the module for `layer` without adapters; redirects nothing until
  /// `bind`. `layer_name` is for error messages.
  TrainableTokens(const std::shared_ptr<Module>& layer, std::string layer_name);
  ~TrainableTokens() override;

  /// Redirects the forward of `layer`, which is the layer of the constructor or
  /// one tied to its weight, to this module.
  void bind(const std::shared_ptr<Module>& layer);
  /// Returns the weight [n, dim] of the layer.
  Tensor weight() const;

  /// Adds an adapter, inactive and frozen, that trains the rows `indices`. They
  /// start as the rows of the base weight, in its dtype; with
  /// `autocast_adapter_dtype` fp16 and bf16 become fp32. ValueError if
  /// `indices` is empty, out of range or has a duplicate.
  void add_adapter(
      const std::string& adapter_name,
      const std::vector<int64_t>& indices,
      bool autocast_adapter_dtype);
  /// Returns all adapters in the order in which they were added.
  const std::list<Adapter>& adapters() const {
    return adapters_.all();
  }
  /// Returns the adapter of this name, or nullptr; valid until the adapter is
  /// deleted.
  const Adapter* find_adapter(const std::string& adapter_name) const {
    return adapters_.find(adapter_name);
  }

  bool has(const std::string& adapter_name) const override {
    return find_adapter(adapter_name) != nullptr;
  }
  const AdapterStates& states() const override {
    return adapters_.states();
  }
  NamedTensors adapter_state(const std::string& adapter_name) const override;
  /// Throws ValueError if two of the adapters `adapter_names` train the same
  /// row.
  void check_set_adapter(
      const std::vector<std::string>& adapter_names) const override;
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
  /// Writes the rows of the adapters into the weight, and stores the
  /// overwritten rows in `Adapter::original`.
  void merge(const std::vector<std::string>& adapter_names = {}) override;
  void check_unmergeable() const override;
  void unmerge(size_t count = 0) override;
  /// Gives the forward back to the layer and to the layers tied to it, and
  /// removes this module from the layer. Merged rows stay in the table.
  void unload() override;

  /// Returns the rows that the layer's forward must use now instead of rows of
  /// its weight: those of the active adapters, or nullopt while adapters are
  /// merged. If adapters are merged and disabled, the original rows.
  std::optional<nn::ReplacedRows> replaced_rows() const;
  /// Returns whether an active adapter has a row that differs from the row of
  /// the base weight.
  bool changes_something() const;

 protected:
  std::vector<std::string> adapter_names() const override {
    return adapters_.names();
  }

 private:
  struct BoundLayer;

  Tensor base_rows(const std::vector<int64_t>& indices) const;
  void check_writable() const;
  void write(const std::vector<int64_t>& indices, const Tensor& rows);
  void update_shown();

  std::string layer_name_;
  std::weak_ptr<Module> layer_;
  std::vector<std::unique_ptr<BoundLayer>> bound_;
  std::shared_ptr<AdapterDict> deltas_;
  AdapterSet<Adapter> adapters_;
  /// The adapters whose rows `replaced_rows` returns, set when the state
  /// changes.
  std::vector<std::string> shown_;
  /// The adapters that were shown last, if any, with their row numbers in
  /// ascending order (`indices_`, `index_`) and the permutation that sorts
  /// their rows (`order_`, undefined if they are sorted).
  std::vector<std::string> indexed_;
  std::vector<int64_t> indices_;
  Tensor index_, order_;
};

} // namespace torchlora
