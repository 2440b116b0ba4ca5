#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/adaptable.h>

namespace torchlora::nn {

/// `torch::nn::Linear` that can be adapted and whose matrix products follow
/// the CPU (`nn/compute.h`): input [*, in_features], output [*, out_features]
/// of the input's dtype.
class TORCHLORA_API LinearImpl
    : public Adaptable<torch::nn::LinearImpl, LinearImpl> {
 public:
  /// @{
  /// As `torch::nn::Linear`'s.
  LinearImpl(int64_t in_features, int64_t out_features)
      : LinearImpl(torch::nn::LinearOptions(in_features, out_features)) {}
  explicit LinearImpl(const torch::nn::LinearOptions& options_)
      : Adaptable(options_) {}
  explicit LinearImpl(const torch::nn::LinearImpl& base) : Adaptable(base) {}
  /// @}

  /// A layer without bias around an existing weight [out_features,
  /// in_features] of any dtype: nothing is allocated, initialised or copied.
  static std::shared_ptr<LinearImpl> from_weight(const at::Tensor& weight);

  at::Tensor base_forward(const at::Tensor& input) override;
};
TORCH_MODULE(Linear);

} // namespace torchlora::nn
