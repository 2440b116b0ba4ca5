#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>
#include <torchlora/nn/compute.h>

namespace torchlora::nn {

/// A `torch::nn::Linear` whose forward a LoRA layer can take over: input
/// [*, in_features], output [*, out_features] in the input's dtype. It
/// multiplies by `nn::linear` (`nn/compute.h`), which is fast with bf16 and
/// fp16 weights on any CPU.
class TORCHLORA_API LinearImpl
    : public Adaptable<torch::nn::LinearImpl, LinearImpl> {
 public:
  /// @{
  /// Takes the arguments of `torch::nn::Linear`. A layer made from `base`
  /// shares the tensors of `base`.
  LinearImpl(int64_t in_features, int64_t out_features)
      : LinearImpl(torch::nn::LinearOptions(in_features, out_features)) {}
  explicit LinearImpl(const torch::nn::LinearOptions& options_)
      : Adaptable(options_) {}
  explicit LinearImpl(const torch::nn::LinearImpl& base) : Adaptable(base) {}
  /// @}
  ~LinearImpl() override;

  /// Returns a layer without a bias that uses the tensor `weight`
  /// [out_features, in_features] as its weight, in any dtype. Copies and
  /// initializes nothing.
  static std::shared_ptr<LinearImpl> from_weight(const Tensor& weight) {
    auto layer = std::make_shared<LinearImpl>(
        torch::nn::LinearOptions(1, 1).bias(false));
    layer->options.out_features(weight.size(0));
    layer->options.in_features(weight.size(1));
    layer->weight.set_data(weight);
    return layer;
  }

  Tensor base_forward(const Tensor& input) override {
    return nn::linear(input, weight, bias);
  }
};
TORCH_MODULE(Linear);

} // namespace torchlora::nn
