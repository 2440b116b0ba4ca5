#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <c10/util/ArrayRef.h>
#include <c10/util/FunctionRef.h>
#include <torchlora/tensor.h>

namespace torchlora {

struct LoraAdapter;

/// How a type of layer uses its weight: by which of LibTorch's operations an
/// unmodified layer (`lora/overlay.h`) of that type gets its update in low-rank
/// form. All others see the dense adapted weight.
enum class WeightUse {
  /// No operation is known.
  kDense,
  /// linear, matmul, mm or addmm
  kLinear,
  kEmbedding,
  kEmbeddingBag,
  /// conv1d, conv2d or conv3d
  kConvolution,
  /// conv_transpose1d, 2d or 3d
  kTransposedConvolution,
  kBilinear,
};

/// An operation of LibTorch at work on the weight of an unmodified layer.
struct WeightOperation {
  /// The operation with another input, weight and bias, and its other
  /// arguments.
  c10::function_ref<
      Tensor(const Tensor& input, const Tensor& weight, const Tensor& bias)>
      run;
  /// May be undefined.
  Tensor bias;
  /// The rows of the weight that it uses; -1: all.
  int64_t first_row = 0, rows = -1;

  Tensor narrow(const Tensor& tensor) const {
    return rows < 0 ? tensor : tensor.narrow(0, first_row, rows);
  }
};

/// The update of one adapter in a forward: scaling · B A dropout(x).
struct ActiveUpdate {
  const LoraAdapter* adapter;
  /// The factors that the forward computes with, as the adapter's variant
  /// gives them.
  Tensor A, B;
  /// Negative where a merged update is taken out.
  double scaling;
  /// 0 outside of training.
  double dropout = 0;
  /// Whether the variant compresses the input (`LoraVariant::compresses`).
  bool compresses = false;
  /// Defined where a merged update is taken out that is not a plain sum: what
  /// `LoraVariant::apply` returned as `memory`.
  Tensor memory = {};
  /// In a mixed batch: the elements (int64) that the adapter is for.
  Tensor rows = {};
};

/// Which elements of a batch, along its first dimension, go through which
/// adapter; the others through none.
struct MixedBatch {
  int64_t size = 0;
  /// Adapter names and int64 indices.
  std::vector<std::pair<std::string, Tensor>> rows;
};

using ActiveUpdates = c10::ArrayRef<ActiveUpdate>;

/// What a forward of an adapted layer knows besides its updates.
struct LayerCall {
  /// [*, in_features], or what the layer's own operation takes.
  Tensor input;
  /// The base layer's; undefined if it has none.
  Tensor bias;
  /// The operation at work on the weight of an unmodified layer; nullptr for a
  /// layer that is redirected.
  const WeightOperation* operation = nullptr;

  /// The same call with another input and without a bias.
  LayerCall on(Tensor other_input) const {
    return {std::move(other_input), {}, operation};
  }
  /// Narrows a tensor with a row per output channel to the rows that the
  /// operation computes.
  Tensor narrow(const Tensor& tensor) const {
    return operation ? operation->narrow(tensor) : tensor;
  }
};

} // namespace torchlora
