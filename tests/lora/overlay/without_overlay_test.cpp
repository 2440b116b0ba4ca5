#include <torchlora/lora/overlay.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

TEST(WithoutOverlay, AnUnmodifiedLayerIsRefusedByName) {
  EXPECT_FALSE(has_weight_overlay());
  const auto net = std::make_shared<torch::nn::Module>("Net");
  net->register_module("fc", torch::nn::Linear(6, 4));
  net->register_module("pair", torch::nn::Bilinear(3, 4, 5));
  const auto names = net->named_parameters().keys();
  for (const auto& [name, way_out] :
       {std::pair("fc", "in torchlora::nn"),
        std::pair("pair", "torchlora::nn::Redirectable")}) {
    const auto text = refusal(
        [&] { get_peft_model(*net, LoraConfig(2).target_modules({name})); });
    for (const auto& part :
         {std::string("\"") + name + "\"", std::string(way_out)}) {
      EXPECT_PRED_FORMAT2(testing::IsSubstring, part, text);
    }
  }
  EXPECT_EQ(net->named_parameters().keys(), names);
}

TEST(WithoutOverlay, OurLayersAreAdapted) {
  const auto net = std::make_shared<torch::nn::Module>("Net");
  nn::Linear layer(6, 4);
  net->register_module("fc", layer);
  net->to(torch::kFloat64);
  auto peft = get_peft_model(*net, LoraConfig(2).target_modules({"fc"}));
  torch::NoGradGuard no_grad;
  net->named_parameters()["fc.lora_B.default.weight"].normal_();
  const auto x = test::randn({5, 6}, torch::kFloat64);
  const auto adapted = layer(x);
  peft.merge_and_unload();
  EXPECT_LT(difference(layer(x), adapted), 1e-12);
}

} // namespace
} // namespace torchlora
