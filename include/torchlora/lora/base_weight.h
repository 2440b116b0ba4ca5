#pragma once

#include <functional>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <torchlora/export.h>

namespace torchlora {

/// How a layer stores the matrix that maps its input to its output.
enum class WeightLayout {
  /// [out_features, in_features], as `torch::nn::Linear` does.
  kOutIn,
  /// [in_features, out_features]: PEFT's `fan_in_fan_out`.
  kInOut,
};

/// Where an adaptable layer keeps its weight and what it looks like. Merging,
/// the initialisers, the files and every tool reach a base weight through
/// this accessor alone, so a layer type that provides it gets all of them.
///
/// Holds handles, not copies: writing goes to the layer's own tensor, in
/// place, so that an optimizer's or a tied module's handle stays valid.
class TORCHLORA_API BaseWeight {
 public:
  /// `path`: the module inside the layer that owns the tensors, as its name
  /// relative to the layer; "" if the layer itself does.
  BaseWeight(
      at::Tensor weight,
      at::Tensor bias = {},
      std::string path = "",
      WeightLayout layout = WeightLayout::kOutIn)
      : weight_(std::move(weight)),
        bias_(std::move(bias)),
        path_(std::move(path)),
        layout_(layout) {}

  /// The tensor as the layer stores it.
  const at::Tensor& weight() const {
    return weight_;
  }
  /// [out_features]; undefined without one.
  const at::Tensor& bias() const {
    return bias_;
  }
  const std::string& path() const {
    return path_;
  }
  WeightLayout layout() const {
    return layout_;
  }
  int64_t in_features() const {
    return weight_.size(layout_ == WeightLayout::kOutIn ? 1 : 0);
  }
  int64_t out_features() const {
    return weight_.size(layout_ == WeightLayout::kOutIn ? 0 : 1);
  }

  /// The weight as a matrix [out_features, in_features]; shares its memory.
  at::Tensor matrix() const {
    return layout_ == WeightLayout::kOutIn ? weight_ : weight_.t();
  }
  /// Adds `alpha` · `delta` [out_features, in_features] in place, rounding
  /// once to the weight's dtype. Call without gradient mode.
  void add_(const at::Tensor& delta, double alpha = 1) const {
    matrix().add_(delta, alpha);
  }

 private:
  at::Tensor weight_, bias_;
  std::string path_;
  WeightLayout layout_;
};

/// Gives the accessor of a base layer.
using BaseWeightAccessor = std::function<BaseWeight(torch::nn::Module&)>;

} // namespace torchlora
