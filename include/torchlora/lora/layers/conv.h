#pragma once

#include <ATen/Functions.h>

#include <torchlora/lora/layer.h>
#include <torchlora/nn/conv.h>

namespace torchlora {

/// The LoRA layer for `Conv1d`, `Conv2d` and `Conv3d` of `torchlora::nn` and
/// `torch::nn`. A [r, in_channels / groups, kernel…] is a kernel that the
/// layer's own convolution applies, with its stride, padding, padding mode and
/// dilation. B [out_channels, r, 1…] is a kernel of size 1 on the result:
///
///     y = W * x + b + Σ scaling · B · (A * dropout(x))
///
/// This equals the convolution with W + Σ scaling · B A. In a grouped
/// convolution every group applies the same A to its own input channels, and
/// the rows of B for a group's output channels act on that group's r results.
/// PEFT's `lora.Conv2d` ignores dilation and padding mode. Its A for a grouped
/// convolution is [r, in_channels, kernel…], which no update of the weight
/// equals, so such a file does not load.
class TORCHLORA_API LoraConv : public LoraLayer {
 public:
  /// Makes a LoRA layer without adapters. `base_layer` is a convolution.
  LoraConv(
      const std::shared_ptr<Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraLayer(base_layer, std::move(accessor)),
        base_(dynamic_cast<nn::Convolution*>(base_layer.get())),
        spatial_dims_(base_weight().weight().dim() - 2),
        group_channels_(base_weight().in_features()) {}
  ~LoraConv() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    const auto groups = groups_of(call);
    // One copy of A per group: [groups · r, in_channels / groups, kernel…].
    const auto kernel = groups == 1
        ? A
        : at::cat(at::TensorList(
              std::vector<Tensor>(static_cast<size_t>(groups), A)));
    const auto h = operate(call, kernel, {});
    // B on the channels, whether or not there is a batch.
    const auto channels = h.dim() - 1 - spatial_dims_;
    auto sizes = h.sizes().vec();
    sizes[channels] = B.size(0);
    const auto flat = h.flatten(channels + 1);
    if (groups == 1) {
      return at::matmul(B.flatten(1), flat).view(sizes);
    }
    // [*, groups, r, positions]
    const auto by_group = flat.unflatten(channels, {groups, A.size(0)});
    const auto B_by_group =
        B.flatten(1).view({groups, B.size(0) / groups, A.size(0)});
    return at::matmul(B_by_group, by_group).reshape(sizes);
  }
  Tensor operate(
      const LayerCall& call,
      const Tensor& kernel,
      const Tensor& bias) const override {
    return base_ ? base_->convolve(call.input, kernel, bias)
                 : LoraLayer::operate(call, kernel, bias);
  }
  Tensor per_channel(const LayerCall& /*call*/, const Tensor& values)
      const override {
    std::vector<int64_t> sizes(spatial_dims_ + 1, 1);
    sizes[0] = -1;
    return values.view(sizes);
  }
  Tensor weight_inputs(const LayerCall& call) const override {
    TORCH_CHECK_VALUE(
        groups_of(call) == 1,
        "[set_input_observer] each of the ",
        groups_of(call),
        " groups of a convolution has inputs of its own; leave it out by "
        "exclude_modules");
    const auto& kernel = base_weight().weight();
    auto sizes = kernel.sizes().vec();
    sizes[0] = kernel[0].numel();
    // A channel for each element of the kernel: the patches.
    const auto patches =
        operate(call, at::eye(sizes[0], kernel.options()).view(sizes), {});
    return patches.movedim(patches.dim() - 1 - spatial_dims_, -1)
        .reshape({-1, sizes[0]});
  }
  WeightUse weight_use() const override {
    return WeightUse::kConvolution;
  }

 private:
  /// Returns the number of groups, with a batch or without.
  int64_t groups_of(const LayerCall& call) const {
    const auto& x = call.input;
    return x.size(x.dim() - 1 - spatial_dims_) / group_channels_;
  }

  /// The base layer if it is a `torchlora::nn` convolution; nullptr for a
  /// `torch::nn` one, which the weight overlay adapts.
  nn::Convolution* base_;
  int64_t spatial_dims_;
  /// The number of input channels of one group.
  int64_t group_channels_;
};

} // namespace torchlora
