#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>
#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora {

/// How a layer stores the matrix that maps its input to its output.
enum class WeightLayout {
  /// [out_features, in_features, kernel…], as `torch::nn::Linear` and the
  /// convolutions do.
  kOutIn,
  /// [in_features, out_features], as embedding tables and PEFT's
  /// `fan_in_fan_out` layers do; a transposed convolution stores
  /// [in_channels, out_channels, kernel…].
  kInOut,
};

/// Where an adaptable layer keeps its weight and what it looks like. Merging,
/// the initializers, the files and every tool reach a base weight through
/// this accessor alone, so a layer type that provides it gets all of them.
///
/// Holds handles, not copies: writing goes to the layer's own tensor, in
/// place, so that an optimizer's or a tied module's handle stays valid.
class TORCHLORA_API BaseWeight {
 public:
  /// `path`: the module inside the layer that owns the tensors, as its name
  /// relative to the layer; "" if the layer itself does.
  BaseWeight(
      Tensor weight,
      Tensor bias = {},
      std::string path = "",
      WeightLayout layout = WeightLayout::kOutIn)
      : weight_(std::move(weight)),
        bias_(std::move(bias)),
        path_(std::move(path)),
        layout_(layout) {}

  /// Makes the accessor of several experts' weights in one tensor: [experts,
  /// out_features, in_features], or with `is_transposed` [experts, in_features,
  /// out_features].
  static BaseWeight stacked(Tensor weight, bool is_transposed) {
    BaseWeight result(
        std::move(weight),
        {},
        "",
        is_transposed ? WeightLayout::kInOut : WeightLayout::kOutIn);
    result.experts_ = result.weight_.size(0);
    return result;
  }

  /// The tensor as the layer stores it.
  const Tensor& weight() const& {
    return weight_;
  }
  Tensor weight() && {
    return std::move(weight_);
  }
  /// [out_features]; undefined without one.
  const Tensor& bias() const& {
    return bias_;
  }
  Tensor bias() && {
    return std::move(bias_);
  }
  /// Names the layer's own member that is the weight: a layer that is not
  /// `nn::Redirectable` is adapted through it (`lora/overlay.h`).
  BaseWeight member(Tensor& weight) && {
    member_ = &weight;
    return std::move(*this);
  }
  /// nullptr if none was named.
  Tensor* member() const& {
    return member_;
  }
  /// Returns the same accessor for another tensor.
  BaseWeight with_weight(Tensor weight) && {
    weight_ = std::move(weight);
    return std::move(*this);
  }
  /// The module inside the layer that owns the tensors, "" for the layer.
  const std::string& path() const {
    return path_;
  }
  WeightLayout layout() const {
    return layout_;
  }
  /// The number of experts in a stacked weight; 0 for all others.
  int64_t experts() const {
    return experts_;
  }
  /// The input channels of a convolution, per group.
  int64_t in_features() const {
    return weight_.size(first_dim() + (layout_ == WeightLayout::kOutIn));
  }
  /// The output channels of a convolution; of a transposed one, times the
  /// kernel's elements.
  int64_t out_features() const {
    const auto dim = first_dim() + (layout_ == WeightLayout::kInOut);
    return experts_ || dim == 0 ? weight_.size(dim)
                                : weight_.numel() / weight_.size(0);
  }

  /// Returns the weight as a matrix [out_features, in_features · kernel
  /// elements], a stacked one as [experts · out_features, in_features]. To
  /// read: it shares the weight's memory where strides allow.
  Tensor matrix() const {
    if (experts_) {
      return by_expert().flatten(0, 1);
    }
    const auto matrix = weight_.flatten(1);
    return layout_ == WeightLayout::kInOut ? matrix.t() : matrix;
  }
  /// Adds `alpha` · `delta`, shaped like `matrix()`, in place, rounding once
  /// to the weight's dtype. Call without gradient mode.
  void add_(const Tensor& delta, double alpha = 1) const {
    weight_.add_(from_matrix(delta), alpha);
  }
  /// Overwrites the weight by a matrix like `matrix()`, in place.
  void copy_(const Tensor& matrix) const {
    weight_.copy_(from_matrix(matrix));
  }
  /// Gives a matrix like `matrix()` the weight's own sizes.
  Tensor from_matrix(const Tensor& matrix) const {
    if (experts_) {
      const auto stack = matrix.view({experts_, -1, matrix.size(1)});
      return layout_ == WeightLayout::kInOut ? stack.transpose(1, 2) : stack;
    }
    return (layout_ == WeightLayout::kInOut ? matrix.t() : matrix)
        .reshape(weight_.sizes());
  }

  /// Returns a stacked weight as [experts, out_features, in_features], in its
  /// memory.
  Tensor by_expert() const {
    return layout_ == WeightLayout::kInOut ? weight_.transpose(1, 2) : weight_;
  }
  /// @{
  /// Returns a factor of a stacked weight's update by expert, in its memory:
  /// A [experts, r, in_features], B [experts, out_features, r].
  Tensor A_by_expert(const Tensor& A) const {
    return A.view({experts_, -1, A.size(1)});
  }
  Tensor B_by_expert(const Tensor& B) const {
    return B.view({B.size(0), -1, experts_}).permute({2, 0, 1});
  }
  /// @}

  /// Returns B A, shaped like `matrix()`.
  Tensor product(const Tensor& A, const Tensor& B) const {
    return experts_ ? B_by_expert(B).bmm(A_by_expert(A)).flatten(0, 1)
                    : B.flatten(1).mm(A.flatten(1));
  }

  /// @{
  /// Returns the sizes of the factors of an update: A [r, in_features,
  /// kernel…], B [out_features, r, 1…]. For a stacked weight they are as PEFT
  /// stores them: A [experts · r, in_features], the rows of an expert together,
  /// B [out_features, r · experts], the columns of a rank together.
  std::vector<int64_t> A_sizes(int64_t r) const {
    if (experts_) {
      return {experts_ * r, in_features()};
    }
    auto sizes = kernel_sizes();
    sizes.insert(sizes.begin(), {r, in_features()});
    return sizes;
  }
  std::vector<int64_t> B_sizes(int64_t r) const {
    if (experts_) {
      return {out_features(), r * experts_};
    }
    std::vector<int64_t> sizes(kernel_sizes().size(), 1);
    sizes.insert(sizes.begin(), {out_features(), r});
    return sizes;
  }
  /// @}
  /// Returns the sizes of DoRA's magnitudes: [out_features], for a convolution
  /// [1, out_features, 1…].
  std::vector<int64_t> magnitude_sizes() const {
    if (weight_.dim() == 2) {
      return {out_features()};
    }
    std::vector<int64_t> sizes(weight_.dim(), 1);
    sizes[1] = out_features();
    return sizes;
  }

 private:
  /// The first dimension of the matrix, or of the matrices in a stacked weight.
  int64_t first_dim() const {
    return experts_ ? 1 : 0;
  }
  std::vector<int64_t> kernel_sizes() const {
    return layout_ == WeightLayout::kInOut ? std::vector<int64_t>{}
                                           : weight_.sizes().slice(2).vec();
  }

  Tensor weight_, bias_;
  Tensor* member_ = nullptr;
  std::string path_;
  WeightLayout layout_;
  int64_t experts_ = 0;
};

/// Gives the accessor of a base layer.
using BaseWeightAccessor = std::function<BaseWeight(torch::nn::Module&)>;

} // namespace torchlora
