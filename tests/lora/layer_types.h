#pragma once

#include <memory>

#include <torch/torch.h>

#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/linear.h>

namespace torchlora::test {

/// One entry a layer type: how the suites make a layer and an input for it.
/// In about half of its values a clipped layer clips.
struct LinearType {
  using Layer = nn::Linear;
  static Layer make() {
    return Layer(12, 10);
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

struct ClippableLinearType {
  using Layer = nn::ClippableLinear;
  static Layer make() {
    Layer layer(12, 10);
    layer->input_min.fill_(-0.7);
    layer->input_max.fill_(0.6);
    layer->output_min.fill_(-0.25);
    layer->output_max.fill_(0.2);
    return layer;
  }
  static at::Tensor input() {
    return torch::randn({4, 3, 12});
  }
};

/// A model with two layers of a type, one of them below another module.
template <class Type>
struct PairImpl : torch::nn::Module {
  PairImpl() {
    target = register_module("target", Type::make());
    auto block =
        register_module("block", std::make_shared<torch::nn::Module>("block"));
    other = block->register_module("other", Type::make());
  }
  at::Tensor forward(const at::Tensor& x) {
    return target(x) - other(x).sin();
  }
  typename Type::Layer target{nullptr}, other{nullptr};
};

} // namespace torchlora::test
