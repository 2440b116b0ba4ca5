#include <torchlora/lora/overlay.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/model.h>

#include "support.h"

namespace torchlora {
namespace {

struct NetImpl : torch::nn::Module {
  torch::nn::Linear fc = register_module("fc", torch::nn::Linear(6, 4));
};

TEST(WithoutOverlay, TakesDenseWeights) {
  EXPECT_FALSE(has_weight_overlay());
  set_weight_overlay(true);
  EXPECT_FALSE(has_weight_overlay());

  const auto net = std::make_shared<NetImpl>();
  net->to(torch::kDouble);
  const auto raw = net->fc->weight.detach().clone();
  auto peft =
      get_peft_model(*net, LoraConfig(2).lora_alpha(4).target_modules({"fc"}));
  const auto parameters = net->named_parameters();
  const auto a = parameters["fc.lora_A.default.weight"];
  const auto b = parameters["fc.lora_B.default.weight"];
  {
    torch::NoGradGuard no_grad;
    b.normal_();
  }
  const auto x = torch::randn({5, 6}, torch::kDouble);
  const auto expected =
      torch::nn::functional::linear(x, raw + 2 * b.mm(a), net->fc->bias);
  EXPECT_FALSE(torch::allclose(net->fc(x), expected));
  peft.refresh_weights();
  EXPECT_TRUE(torch::allclose(net->fc(x), expected, 1e-12, 1e-12));
  net->fc(x).sum().backward();
  EXPECT_GT(a.grad().abs().max().item<double>(), 0);

  peft.merge_and_unload();
  EXPECT_TRUE(torch::allclose(net->fc(x), expected, 1e-12, 1e-12));
  EXPECT_TRUE(
      torch::equal(net->fc->weight, net->named_parameters()["fc.weight"]));
}

TEST(WithoutOverlay, AForwardWithAWeightOfBeforeTheStepIsRefused) {
  const auto net = std::make_shared<NetImpl>();
  auto peft = get_peft_model(*net, LoraConfig(2).target_modules({"fc"}));
  torch::optim::SGD optimizer(peft.trainable_parameters(), 0.1);
  const auto x = torch::randn({5, 6});
  const auto step = [&] {
    net->fc(x).square().sum().backward();
    optimizer.step();
  };
  step();
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "call PeftModel::refresh_weights()", refusal(step));
  peft.refresh_weights();
  EXPECT_EQ(refusal(step), "");
}

TEST(WithoutOverlay, RefusesWhatNeedsIt) {
  const auto net = std::make_shared<NetImpl>();
  EXPECT_THROW(
      get_peft_model(
          *net, LoraConfig(2).lora_dropout(0.5).target_modules({"fc"})),
      c10::ValueError);
}

} // namespace
} // namespace torchlora
