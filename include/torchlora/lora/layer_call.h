#pragma once

#include <cstdint>

#include <c10/util/ArrayRef.h>
#include <c10/util/FunctionRef.h>
#include <torchlora/types.h>

namespace torchlora {

struct LoraAdapter;

/// Which LibTorch operation a layer type applies to its weight. For a layer
/// that the weight overlay adapts (`lora/overlay.h`), that operation computes
/// base product plus low-rank product; every other operation on the weight
/// computes with the dense adapted weight.
enum class WeightUse {
  /// The layer type names no operation: every operation computes with the dense
  /// adapted weight.
  kDense,
  /// The layer type applies linear, matmul, mm or addmm to its weight.
  kLinear,
  kEmbedding,
  kEmbeddingBag,
  /// The layer type applies conv1d, conv2d or conv3d to its weight.
  kConvolution,
  /// The layer type applies conv_transpose1d, 2d or 3d to its weight.
  kTransposedConvolution,
  kBilinear,
};

/// One LibTorch operation on the weight of an adapted `torch::nn` layer, which
/// the weight overlay (`lora/overlay.h`) intercepted: for example the `linear`
/// inside `torch::nn::Linear::forward`.
struct WeightOperation {
  /// Calls the intercepted operation with the given input, weight and bias. Its
  /// remaining arguments, such as the stride, are the original ones.
  c10::function_ref<
      Tensor(const Tensor& input, const Tensor& weight, const Tensor& bias)>
      run;
  /// The bias that the operation was called with; undefined if none.
  Tensor bias;
  /// The range of weight rows that the operation uses: `rows` rows from
  /// `first_row`, or all rows if `rows` is -1.
  int64_t first_row = 0, rows = -1;

  /// Returns the rows of `tensor` that the operation uses. `tensor` has one row
  /// per row of the weight.
  Tensor narrow(const Tensor& tensor) const {
    return rows < 0 ? tensor : tensor.narrow(0, first_row, rows);
  }
};

/// The update scaling · B A dropout(x) that one adapter adds to the output in
/// the current forward.
struct ActiveUpdate {
  const LoraAdapter* adapter;
  /// The factors A [r, in_features, kernel…] and B [out_features, r, 1…] that
  /// `LoraVariant::factors` returned (plain LoRA: the adapter's parameters).
  Tensor A, B;
  /// The number that B A is multiplied by. Negative if the forward subtracts a
  /// merged update because adapters are disabled.
  double scaling;
  /// The dropout probability; 0 outside of training.
  double dropout = 0;
  /// Whether the adapter's variant compresses the input that training stores
  /// for the gradient of A (`LoraVariant::compresses`).
  bool compresses = false;
  /// What `LoraVariant::apply` returned as `memory` when the adapter was
  /// merged. Defined only if the forward removes a merged update whose variant
  /// is not additive (DoRA).
  Tensor memory = {};
  /// In a mixed batch: the int64 indices of the samples that go through this
  /// adapter. Undefined otherwise.
  Tensor rows = {};
};

/// The updates of one forward, in the order in which they act.
using ActiveUpdates = c10::ArrayRef<ActiveUpdate>;

/// The arguments of one forward of a LoRA layer: the input, the bias and, under
/// the weight overlay, the LibTorch operation.
struct LayerCall {
  /// The input of the layer: [*, in_features] for a linear layer, indices for
  /// an embedding, [batch, channels, …] for a convolution.
  Tensor input;
  /// The base layer's bias [out_features]; undefined if the layer has none.
  Tensor bias;
  /// The LibTorch operation that currently uses the weight. Set for a layer
  /// that is adapted through the weight overlay (`lora/overlay.h`); nullptr for
  /// a layer that derives from `nn::Redirectable`.
  const WeightOperation* operation = nullptr;

  /// Returns a copy of this call with the input `other_input` and without a
  /// bias.
  LayerCall on(Tensor other_input) const {
    return {std::move(other_input), {}, operation};
  }
  /// Returns the rows of `tensor`, which has one row per output channel, that
  /// `operation` uses; all rows without an operation.
  Tensor narrow(const Tensor& tensor) const {
    return operation ? operation->narrow(tensor) : tensor;
  }
};

} // namespace torchlora
