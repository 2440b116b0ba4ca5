#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/export.h>
#include <torchlora/lora/adapter.h>
#include <torchlora/nn/replaced_rows.h>

namespace torchlora {

/// Rows of the weight of an `nn::Embedding` or `nn::Linear` that adapters
/// train (`trainable_token_indices`): the layer's child `token_adapter`, which
/// it is redirected to, with the parameters `trainable_tokens_delta.default`
/// [k, dim]. They take the place of the weight's rows in the layer and in those
/// that are tied to it; the weight itself is changed by a merge only. PEFT's
/// `TrainableTokensLayer`.
class TORCHLORA_API TrainableTokens : public torch::nn::Module {
 public:
  /// @{
  /// Names in the module tree, which are PEFT's.
  static constexpr auto kName = "token_adapter";
  static constexpr auto kDelta = "trainable_tokens_delta";
  /// @}

  /// The rows of one adapter.
  struct Adapter {
    /// The adapter's name.
    std::string name;
    /// Row i of `delta` takes the place of row indices[i].
    std::vector<int64_t> indices;
    /// [k, dim], the parameter.
    at::Tensor delta;
    /// The rows that a merge wrote over; undefined unless merged.
    at::Tensor original = {};
  };

  /// `layer_name` is for messages. Redirects nothing yet.
  TrainableTokens(
      const std::shared_ptr<torch::nn::Module>& layer,
      std::string layer_name);
  ~TrainableTokens() override;

  /// Redirects the layer, or one that computes with the same weight.
  void bind(const std::shared_ptr<torch::nn::Module>& layer);
  /// Ends all redirections and takes this out of the layer; what is merged
  /// stays in the weight.
  void unload();
  /// The layer's.
  at::Tensor weight() const;

  /// Adds an adapter, inactive and frozen, whose rows are the base weight's, in
  /// its dtype; with `autocast_adapter_dtype` fp32 for fp16 and bf16.
  /// ValueError for indices that are none, negative, too large or given twice.
  void add_adapter(
      const std::string& adapter_name,
      const std::vector<int64_t>& indices,
      bool autocast_adapter_dtype);
  /// Does nothing if there is no such adapter; ValueError if it is merged.
  void delete_adapter(const std::string& adapter_name);
  /// In the order in which they were added.
  const std::list<Adapter>& adapters() const {
    return adapters_;
  }
  /// nullptr if there is none; valid until the adapter is deleted.
  const Adapter* find_adapter(const std::string& adapter_name) const;

  /// ValueError if two of the adapters (and of the merged ones, in a merge)
  /// have rows of one index.
  void check_disjoint(
      const std::vector<std::string>& adapter_names,
      const char* function) const;
  /// Makes these adapters active (names it does not have are skipped) and
  /// trainable unless `inference_mode`; all others are frozen.
  void set_adapter(
      const std::vector<std::string>& adapter_names,
      bool inference_mode = false);
  /// In the order in which they were given.
  const std::vector<std::string>& active_adapters() const {
    return active_adapters_;
  }
  /// Whether the rows are in the forward; leaves `requires_grad` alone.
  void enable_adapters(bool enabled);
  /// Whether `enable_adapters` has them on.
  bool adapters_enabled() const {
    return enabled_;
  }

  /// ValueError if the rows of these adapters (empty: the active ones) cannot
  /// be merged; with `safe_merge` if they are not finite.
  void check_mergeable(
      const std::vector<std::string>& adapter_names,
      bool safe_merge) const;
  /// Writes them into the weight and keeps its own.
  void merge(const std::vector<std::string>& adapter_names);
  /// Writes the weight's own rows back.
  void unmerge();
  /// In the order in which they were merged.
  const std::vector<std::string>& merged_adapters() const {
    return merged_adapters_;
  }

  /// Those of the active adapters; while adapters are merged none, and while
  /// merged ones are disabled the weight's own.
  std::optional<nn::ReplacedRows> replaced_rows() const;
  /// Whether a row of an active adapter is not the weight's.
  bool changes_something() const;

 private:
  struct BoundLayer;

  std::vector<std::string> not_merged(
      const std::vector<std::string>& adapter_names) const;
  at::Tensor base_rows(const std::vector<int64_t>& indices) const;
  void write(const std::vector<int64_t>& indices, const at::Tensor& rows);
  void update_shown();

  std::string layer_name_;
  std::weak_ptr<torch::nn::Module> layer_;
  std::vector<std::unique_ptr<BoundLayer>> bound_;
  std::shared_ptr<AdapterDict> deltas_;
  std::list<Adapter> adapters_;
  std::vector<std::string> active_adapters_, merged_adapters_;
  bool enabled_ = true;
  /// Of `replaced_rows`: the adapters, their indices in ascending order, and
  /// the places of those in what the adapters have (undefined: in that order).
  std::vector<std::string> shown_;
  std::vector<int64_t> indices_;
  at::Tensor index_, order_;
};

} // namespace torchlora
