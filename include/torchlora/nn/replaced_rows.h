#pragma once

#include <cstdint>
#include <optional>

#include <torchlora/nn/redirect.h>

// `trainable_token_indices` trains a few rows of an embedding table or of an
// output head. The table stays frozen: the trained rows are a small tensor of
// their own, and the layer computes as if they stood in the table. An embedding
// looks up both tensors and chooses per index. A linear layer computes its
// output with the frozen weight and overwrites the elements that the trained
// rows give. So no copy of the table exists, in memory or in the gradient.

namespace torchlora::nn {

class EmbeddingImpl;
class LinearImpl;

/// k rows that a layer uses instead of rows of its weight [n, dim], because an
/// adapter trains them (`trainable_token_indices`). The weight does not change.
struct TORCHLORA_API ReplacedRows {
  /// The numbers of the replaced rows of the weight, ascending, without
  /// duplicates.
  std::vector<int64_t> indices;
  /// `indices` as an int64 tensor on the device of `values`.
  Tensor index;
  /// The k rows that the layer uses instead: [k, dim] in the weight's dtype.
  /// Gradients flow to them.
  Tensor values;

  /// Returns a copy of a linear layer's `output` [*, n] in which the elements
  /// of the k replaced rows come from `values` instead of the weight. `input`
  /// [*, dim] is what the layer received, `bias` is [n] or undefined.
  /// Differentiable in all tensors.
  Tensor project(
      const Tensor& output,
      const Tensor& input,
      const Tensor& bias = {}) const;
};

/// An object that takes over a layer's forward and replaces rows of the layer's
/// weight. `trainable_token_indices` attaches one.
class TORCHLORA_API RowReplacer : public ForwardTarget {
 public:
  ~RowReplacer() override;
  /// Returns the rows that the layer uses instead of rows of its weight;
  /// `nullopt` if the layer uses its weight as it is.
  virtual std::optional<ReplacedRows> replaced_rows() const = 0;
};

/// Returns the rows that `layer` uses at present instead of rows of its weight
/// (`trainable_token_indices`); `nullopt` if there are none.
TORCHLORA_API std::optional<ReplacedRows> replaced_rows(
    const Redirectable& layer);

/// Returns the output of the embedding `layer` for the indices `input` as if
/// `rows` stood in its table. Follows the options of `torch::nn::Embedding`
/// except `sparse`: the gradients are dense. `max_norm` does not write to the
/// weight. `rows` may be empty.
TORCHLORA_API Tensor forward_with_rows(
    EmbeddingImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows);
/// Returns the output of the linear `layer` for `input` as if `rows` stood in
/// its weight.
TORCHLORA_API Tensor forward_with_rows(
    LinearImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows);

} // namespace torchlora::nn
