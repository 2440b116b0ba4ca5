#include "lora/overlay/third_party.h"

namespace third_party {

NetImpl::NetImpl() {
  first_ = register_module("first", torch::nn::Linear(6, 8));
  hidden_ = register_module("hidden", torch::nn::Linear(8, 8));
  last_ = register_module("last", torch::nn::Linear(8, 3));
}

torch::Tensor NetImpl::forward(const torch::Tensor& x) {
  return last_(torch::tanh(hidden_->forward(first_(x).relu_())));
}

} // namespace third_party
