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

/// Rows that a layer uses instead of rows of its weight [n, dim]. The weight
/// does not change.
struct TORCHLORA_API ReplacedRows {
  /// The replaced rows, ascending, each once.
  std::vector<int64_t> indices;
  /// `indices` as int64 on the device of `values`.
  Tensor index;
  /// [k, dim], in the weight's dtype; differentiable.
  Tensor values;

  /// Overwrites the elements of `output` [*, n] that the rows give for `input`
  /// [*, dim], in a copy. `output` is a linear layer's; `bias` is [n] or
  /// undefined. Differentiable in all.
  Tensor project(
      const Tensor& output,
      const Tensor& input,
      const Tensor& bias = {}) const;
};

/// A target of a layer's redirection that replaces rows of its weight.
class TORCHLORA_API RowReplacer : public ForwardTarget {
 public:
  ~RowReplacer() override;
  /// Returns `nullopt` if the layer uses its weight as it is.
  virtual std::optional<ReplacedRows> replaced_rows() const = 0;
};

/// Returns the rows that `layer` uses now instead of rows of its weight.
TORCHLORA_API std::optional<ReplacedRows> replaced_rows(
    const Redirectable& layer);

/// Computes the forward of an embedding as if the rows stood in its table.
/// Follows the options of `torch::nn::Embedding` except `sparse`: the gradients
/// are dense. `max_norm` does not write to the weight.
TORCHLORA_API Tensor forward_with_rows(
    EmbeddingImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows);
/// Computes the forward of a linear layer as if the rows stood in its weight.
TORCHLORA_API Tensor forward_with_rows(
    LinearImpl& layer,
    const Tensor& input,
    const ReplacedRows& rows);

} // namespace torchlora::nn
