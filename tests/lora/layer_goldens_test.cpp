// Every layer type in every variant against peft's outputs, gradients and
// merged weights (tests/reference/make_layer_goldens.py).
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// A model of one layer.
struct HolderImpl : torch::nn::Module {
  template <class Layer>
  explicit HolderImpl(Layer layer) {
    register_module("layer", layer);
    forward = [layer](const Tensor& x) mutable { return layer(x); };
  }
  std::function<Tensor(const Tensor&)> forward;
};

std::shared_ptr<HolderImpl> make_model(const std::string& type) {
  if (type == "linear") {
    return test::make_module<HolderImpl>(nn::Linear(12, 10));
  }
  if (type == "embedding") {
    return test::make_module<HolderImpl>(
        nn::Embedding(torch::nn::EmbeddingOptions(20, 8).padding_idx(3)));
  }
  if (type == "conv1d") {
    return test::make_module<HolderImpl>(
        nn::Conv1d(torch::nn::Conv1dOptions(3, 6, 3).stride(2).padding(1)));
  }
  if (type == "conv2d") {
    return test::make_module<HolderImpl>(nn::Conv2d(
        torch::nn::Conv2dOptions(3, 6, {3, 2}).stride({1, 2}).padding({1, 0})));
  }
  return test::make_module<HolderImpl>(
      nn::Conv3d(torch::nn::Conv3dOptions(2, 4, {2, 3, 2}).padding({0, 1, 0})));
}

LoraConfig make_config(const std::string& variant) {
  return LoraConfig(4)
      .lora_alpha(6)
      .target_modules({"layer"})
      .use_rslora(variant == "rslora")
      .use_dora(variant == "dora")
      .lora_bias(variant == "lora_bias");
}

class LayerGoldens
    : public testing::TestWithParam<std::tuple<const char*, const char*>>,
      public Goldens {
 protected:
  LayerGoldens()
      : Goldens(
            "layers.safetensors",
            std::string(std::get<0>(GetParam())) + "/" +
                std::get<1>(GetParam())) {}
};

TEST_P(LayerGoldens, ForwardGradientsAndMergeAreThoseOfPeft) {
  const auto [type, variant] = GetParam();
  auto model = make_model(type);
  auto peft = get_peft_model(*model, make_config(variant));
  const auto layer = peft.layers().at(0).second;
  torch::NoGradGuard no_grad;
  for (const auto& item : layer->base_layer()->named_parameters()) {
    item.value().copy_(golden("base." + item.key()));
  }
  const std::string prefix = "base_model.model.layer.";
  auto tensors = peft.state_dict();
  for (auto& item : tensors) {
    item.value().copy_(golden("adapter." + item.key().substr(prefix.size())));
  }
  Tensor output;
  {
    torch::AutoGradMode grad(true);
    output = model->forward(golden("input"));
    (output * golden("weight")).sum().backward();
  }
  expect(output, "output");
  for (auto& item : tensors) {
    expect(item.value().grad(), "grad." + item.key().substr(prefix.size()));
  }
  peft.merge_adapter();
  for (const auto& item : layer->base_layer()->named_parameters()) {
    expect(item.value(), "merged." + item.key());
  }
  expect(model->forward(golden("input")), "output");
  const auto guard = peft.disable_adapter();
  const auto disabled = model->forward(golden("input"));
  peft.unmerge_adapter();
  EXPECT_LT(
      (model->forward(golden("input")) - disabled).abs().max().item<double>(),
      1e-5);
  expect(layer->base_weight().weight(), "base.weight");
}

INSTANTIATE_TEST_SUITE_P(
    All,
    LayerGoldens,
    testing::Combine(
        testing::Values("linear", "conv1d", "conv2d", "conv3d"),
        testing::Values("plain", "rslora", "dora", "lora_bias")));
INSTANTIATE_TEST_SUITE_P(
    Embedding,
    LayerGoldens,
    testing::Combine(
        testing::Values("embedding"),
        testing::Values("plain", "rslora", "dora")));

} // namespace
} // namespace torchlora
