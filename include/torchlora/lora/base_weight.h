#pragma once

#include <functional>

#include <c10/util/accumulate.h>
#include <torchlora/types.h>

#include <torchlora/export.h>

namespace torchlora {

/// The order of the dimensions in which a layer stores its weight.
enum class WeightLayout {
  /// Output features first: [out_features, in_features, kernel…], as
  /// `torch::nn::Linear` and the convolutions store it.
  kOutIn,
  /// Input features first: [in_features, out_features], as embedding tables and
  /// PEFT's `fan_in_fan_out` layers store it; a transposed convolution stores
  /// [in_channels, out_channels, kernel…].
  kInOut,
};

/// The weight of one base layer and how the layer stores it: the tensor, the
/// bias, the layout, and the path of the module that owns them. Merging,
/// initializers, variants, files and tools reach a base weight only through
/// this accessor, so a layer type that provides one supports all of them.
///
/// It holds the layer's own tensors, not copies. `add_` and `copy_` write in
/// place, so an optimizer or a tied module that holds the same tensor sees the
/// change.
class TORCHLORA_API BaseWeight {
 public:
  /// Makes the accessor of `weight` and `bias` (undefined: none). `path` is the
  /// name, relative to the layer, of the submodule that owns the tensors; "" if
  /// the layer owns them itself.
  BaseWeight(
      Tensor weight,
      Tensor bias = {},
      std::string path = "",
      WeightLayout layout = WeightLayout::kOutIn)
      : weight_(std::move(weight)),
        bias_(std::move(bias)),
        path_(std::move(path)),
        layout_(layout) {}

  /// Makes the accessor of a stacked weight, one tensor with the weights of
  /// several experts: [experts, out_features, in_features], or with
  /// `is_transposed` [experts, in_features, out_features].
  static BaseWeight stacked(Tensor weight, bool is_transposed) {
    BaseWeight result(
        std::move(weight),
        {},
        "",
        is_transposed ? WeightLayout::kInOut : WeightLayout::kOutIn);
    result.experts_ = result.weight_.size(0);
    return result;
  }

  /// @{
  /// Returns the weight in the sizes in which the layer stores it. Shares the
  /// layer's memory.
  const Tensor& weight() const& {
    return weight_;
  }
  Tensor weight() && {
    return std::move(weight_);
  }
  /// @}
  /// @{
  /// Returns the base layer's bias [out_features]; undefined if the layer has
  /// none.
  const Tensor& bias() const& {
    return bias_;
  }
  Tensor bias() && {
    return std::move(bias_);
  }
  /// @}
  /// Stores the address of the layer's weight member and returns this accessor.
  /// A layer that is not `nn::Redirectable` needs it: while the layer is
  /// adapted, this member is a tensor that computes with the adapters
  /// (`lora/overlay.h`). The pointer must stay valid as long as the layer.
  BaseWeight member(Tensor& weight) && {
    member_ = &weight;
    return std::move(*this);
  }
  /// Returns the address of the layer's weight member that `member(weight)`
  /// stored, or nullptr if it was not called.
  Tensor* member() const& {
    return member_;
  }
  /// Replaces the weight of this accessor, not of the layer, and returns the
  /// accessor. Bias, layout, path and member stay.
  BaseWeight with_weight(Tensor weight) && {
    weight_ = std::move(weight);
    return std::move(*this);
  }
  /// Returns the name, relative to the layer, of the submodule that owns the
  /// weight; "" if the layer owns it itself.
  const std::string& path() const {
    return path_;
  }
  WeightLayout layout() const {
    return layout_;
  }
  /// Returns the number of experts of a stacked weight, or 0 for a weight that
  /// is not stacked.
  int64_t experts() const {
    return experts_;
  }
  /// Returns the number of input features; for a convolution the input channels
  /// per group.
  int64_t in_features() const {
    return weight_.size(first_dim() + (layout_ == WeightLayout::kOutIn));
  }
  /// Returns the number of output features; for a convolution the output
  /// channels, for a transposed one the output channels times the kernel's
  /// elements.
  int64_t out_features() const {
    const auto dim = first_dim() + (layout_ == WeightLayout::kInOut);
    return experts_ || dim == 0
        ? weight_.size(dim)
        : c10::multiply_integers(weight_.sizes().slice(1));
  }

  /// Returns the weight as a matrix [out_features, in_features · kernel
  /// elements], a stacked one as [experts · out_features, in_features]. Do not
  /// write to it: it shares the weight's memory only where strides allow.
  Tensor matrix() const {
    if (experts_) {
      return by_expert().flatten(0, 1);
    }
    const auto matrix = weight_.flatten(1);
    return layout_ == WeightLayout::kInOut ? matrix.t() : matrix;
  }
  /// Adds `alpha` · `delta` to the layer's weight in place, rounding once to
  /// its dtype. `delta` has the shape of `matrix()`. Call it without gradient
  /// mode.
  void add_(const Tensor& delta, double alpha = 1) const {
    weight_.add_(from_matrix(delta), alpha);
  }
  /// Overwrites the layer's weight in place with `matrix`, which has the shape
  /// of `matrix()`. Call it without gradient mode.
  void copy_(const Tensor& matrix) const {
    weight_.copy_(from_matrix(matrix));
  }
  /// Returns `matrix`, which has the shape of `matrix()`, in the sizes in which
  /// the layer stores its weight.
  Tensor from_matrix(const Tensor& matrix) const {
    if (experts_) {
      const auto stack =
          matrix.view({experts_, out_features(), matrix.size(1)});
      return layout_ == WeightLayout::kInOut ? stack.transpose(1, 2) : stack;
    }
    return (layout_ == WeightLayout::kInOut ? matrix.t() : matrix)
        .reshape(weight_.sizes());
  }

  /// Returns a view of a stacked weight as [experts, out_features,
  /// in_features]. Only for a stacked weight.
  Tensor by_expert() const {
    return layout_ == WeightLayout::kInOut ? weight_.transpose(1, 2) : weight_;
  }
  /// @{
  /// Return a view of the factor A or B of a stacked weight's update with one
  /// matrix per expert: A as [experts, r, in_features], B as [experts,
  /// out_features, r]. The arguments have the sizes `A_sizes` and `B_sizes`.
  Tensor A_by_expert(const Tensor& A) const {
    return A.view({experts_, A.size(0) / experts_, A.size(1)});
  }
  Tensor B_by_expert(const Tensor& B) const {
    return B.view({B.size(0), B.size(1) / experts_, experts_})
        .permute({2, 0, 1});
  }
  /// @}

  /// Multiplies the factors and returns B A in the shape of `matrix()`. Kernel
  /// dimensions are flattened. For a stacked weight, multiplies per expert and
  /// concatenates by rows.
  Tensor product(const Tensor& A, const Tensor& B) const {
    return experts_ ? B_by_expert(B).bmm(A_by_expert(A)).flatten(0, 1)
                    : B.flatten(1).mm(A.flatten(1));
  }

  /// @{
  /// Return the sizes of the factors of rank r: A [r, in_features, kernel…] and
  /// B [out_features, r, 1…]. For a stacked weight the factors of all experts
  /// are one tensor, as in PEFT: A [experts · r, in_features], where the r rows
  /// of an expert are adjacent, and B [out_features, r · experts], where the
  /// columns of the same rank are adjacent.
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
  /// Returns the sizes of DoRA's magnitude vector: [out_features], for a
  /// convolution [1, out_features, 1…].
  std::vector<int64_t> magnitude_sizes() const {
    if (weight_.dim() == 2) {
      return {out_features()};
    }
    std::vector<int64_t> sizes(weight_.dim(), 1);
    sizes[1] = out_features();
    return sizes;
  }

 private:
  /// Returns the index of the first matrix dimension in the tensor: 1 for a
  /// stacked weight, else 0.
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

/// A function that returns the `BaseWeight` of a base layer. One exists per
/// layer type; the registry stores it.
using BaseWeightAccessor = std::function<BaseWeight(Module&)>;

} // namespace torchlora
