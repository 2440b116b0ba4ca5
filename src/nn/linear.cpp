#include <torchlora/nn/linear.h>

#include <torchlora/nn/compute.h>

namespace torchlora::nn {

std::shared_ptr<LinearImpl> LinearImpl::from_weight(const at::Tensor& weight) {
  auto layer =
      std::make_shared<LinearImpl>(torch::nn::LinearOptions(1, 1).bias(false));
  layer->options.out_features(weight.size(0));
  layer->options.in_features(weight.size(1));
  layer->weight.set_data(weight);
  return layer;
}

at::Tensor LinearImpl::base_forward(const at::Tensor& input) {
  return nn::linear(input, weight, bias);
}

} // namespace torchlora::nn
