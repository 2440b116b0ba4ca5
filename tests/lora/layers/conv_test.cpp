// Grouped convolutions; all else is in the suites over all layer types.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/nn/conv.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;

struct NetImpl : torch::nn::Module {
  nn::Conv2d conv = register_module(
      "conv",
      nn::Conv2d(torch::nn::Conv2dOptions(4, 6, 3).groups(2)));
};

// PEFT's A of a grouped convolution is [r, in_channels, kernel…]: its update is
// none of the weight.
TEST(GroupedConv, PeftsFileIsRefusedByName) {
  torch::manual_seed(1);
  const auto folder = fs::path(testing::TempDir()) / "grouped_conv";
  auto net = test::make_module<NetImpl>();
  get_peft_model(*net, LoraConfig(2).target_modules({"conv"}))
      .save_pretrained(folder);
  const std::string prefix = "base_model.model.conv.";
  io::save_safetensors(
      folder / "adapter_model.safetensors",
      {{prefix + "lora_A.weight", test::randn({2, 4, 3, 3})},
       {prefix + "lora_B.weight", test::randn({6, 2, 1, 1})}});
  auto fresh = test::make_module<NetImpl>();
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "conv.lora_A.weight is [2, 4, 3, 3], expected [2, 2, 3, 3]",
      refusal<DataError>([&] { PeftModel::from_pretrained(*fresh, folder); }));
}

TEST(GroupedConv, ADepthwiseConvolutionTrains) {
  if (!has_weight_overlay()) {
    GTEST_SKIP() << "no weight overlay";
  }
  torch::manual_seed(1);
  auto model = std::make_shared<torch::nn::Module>("Model");
  auto conv = test::on_device(
      torch::nn::Conv1d(torch::nn::Conv1dOptions(4, 8, 3).groups(4)));
  model->register_module("conv", conv);
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"conv"}));
  EXPECT_EQ(
      peft.layers()[0].second->find_adapter("default")->lora_A->weight.sizes(),
      (at::IntArrayRef{2, 1, 3}));
  const auto x = test::randn({2, 4, 7}), y = test::randn({2, 8, 5});
  torch::optim::AdamW optimizer(peft.trainable_parameters(), 0.02);
  double first = 0, last = 0;
  for (int step = 0; step < 30; ++step) {
    const auto loss = torch::mse_loss(conv(x), y);
    (step ? last : first) = loss.item<double>();
    optimizer.zero_grad();
    loss.backward();
    optimizer.step();
  }
  EXPECT_LT(last, 0.95 * first);
  const auto adapted = conv(x).detach();
  peft.merge_and_unload();
  EXPECT_LT(difference(conv(x), adapted), 1e-5);
}

} // namespace
} // namespace torchlora
