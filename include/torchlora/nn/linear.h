#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>
#include <torchlora/nn/compute.h>

namespace torchlora::nn {

/// A `torch::nn::Linear` that can be adapted: input [*, in_features], output
/// [*, out_features] in the input's dtype. Its matrix products take the route
/// that suits the CPU (`nn/compute.h`).
class TORCHLORA_API LinearImpl
    : public Adaptable<torch::nn::LinearImpl, LinearImpl> {
 public:
  /// @{
  /// Same as `torch::nn::Linear`.
  LinearImpl(int64_t in_features, int64_t out_features)
      : LinearImpl(torch::nn::LinearOptions(in_features, out_features)) {}
  explicit LinearImpl(const torch::nn::LinearOptions& options_)
      : Adaptable(options_) {}
  explicit LinearImpl(const torch::nn::LinearImpl& base) : Adaptable(base) {}
  /// @}
  ~LinearImpl() override;

  /// Wraps a layer without bias around an existing weight [out_features,
  /// in_features] of any dtype. Allocates, initializes and copies nothing.
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
