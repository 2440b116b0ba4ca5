#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

class EmbeddingImpl;
class LinearImpl;

/// Rows that a layer computes with in the place of rows of its weight
/// [n, dim], which keeps its own.
struct TORCHLORA_API ReplacedRows {
  /// Which rows, ascending, each once.
  std::vector<int64_t> indices;
  /// The same, int64 on the device of `values`.
  at::Tensor index;
  /// [k, dim], in the weight's dtype; differentiable.
  at::Tensor values;

  /// `output` [*, n] of a linear layer for `input` [*, dim], with the elements
  /// that the rows give; `bias` [n] or undefined. Differentiable in all.
  at::Tensor project(
      const at::Tensor& output,
      const at::Tensor& input,
      const at::Tensor& bias = {}) const;
};

/// The target of a layer's redirection that replaces rows of its weight.
class TORCHLORA_API RowReplacer : public ForwardTarget {
 public:
  /// None: the layer computes with its weight as it is.
  virtual std::optional<ReplacedRows> replaced_rows() const = 0;
};

/// The rows that `layer` computes with now in the place of its weight's.
TORCHLORA_API std::optional<ReplacedRows> replaced_rows(
    const Redirectable& layer);

/// The forward of a layer whose weight had the replaced rows in it, with the
/// options of `torch::nn::Embedding` but `sparse`, its gradients being dense;
/// `max_norm` leaves the weight alone.
TORCHLORA_API at::Tensor forward_with_rows(
    EmbeddingImpl& layer,
    const at::Tensor& input,
    const ReplacedRows& rows);
/// The same of a linear layer.
TORCHLORA_API at::Tensor forward_with_rows(
    LinearImpl& layer,
    const at::Tensor& input,
    const ReplacedRows& rows);

} // namespace torchlora::nn
