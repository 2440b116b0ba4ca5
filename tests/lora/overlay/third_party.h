#pragma once

#include <torch/nn/modules/linear.h>
#include <torch/nn/pimpl.h>

/// Stands for code that was compiled without torchlora.
namespace third_party {

class NetImpl : public torch::nn::Module {
 public:
  NetImpl();
  torch::Tensor forward(const torch::Tensor& x);

 private:
  torch::nn::Linear first_{nullptr}, hidden_{nullptr}, last_{nullptr};
};
TORCH_MODULE(Net);

} // namespace third_party
