// Weights that cannot be written to are refused before anything is changed.
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

/// Weights that cannot be written to.
enum class Broken { kInference, kExpanded, kOverlapping };

class UnwritableWeight : public testing::TestWithParam<Broken> {
 protected:
  /// The layer "first" is as it should be, "second" has such a weight.
  template <class Layer>
  static std::shared_ptr<torch::nn::Module> model(Layer first) {
    auto result = std::make_shared<torch::nn::Module>("Model");
    result->register_module("first", first);
    std::optional<c10::InferenceMode> guard;
    if (GetParam() == Broken::kInference) {
      guard.emplace();
    }
    Layer second(5, 5);
    result->register_module("second", second);
    if (GetParam() == Broken::kExpanded) {
      second->weight.set_data(test::randn({1, 5}).expand({5, 5}));
    } else if (GetParam() == Broken::kOverlapping) {
      second->weight.set_data(test::randn({9}).as_strided({5, 5}, {1, 1}));
    }
    return result;
  }
};

TEST_P(UnwritableWeight, IsRefusedBeforeAnotherLayerIsMerged) {
  const auto test = [](auto first) {
    const auto net = model(first);
    const auto before = first->weight.detach().clone();
    auto peft = get_peft_model(
        *net,
        LoraConfig(2).init_lora_weights(false).target_modules(
            {"first", "second"}));
    const auto text = refusal([&] { peft.merge_adapter(); });
    EXPECT_NE(text.find("second"), std::string::npos) << text;
    EXPECT_NE(text.find("in place"), std::string::npos) << text;
    EXPECT_NE(refusal([&] { peft.merge_and_unload(); }), "");
    EXPECT_EQ(peft.layers().size(), 2U);
    peft.unload();
    EXPECT_TRUE(torch::equal(first->weight, before));
    for (const auto* name : {"pissa", "olora"}) {
      const auto at_injection = refusal(
          *net,
          LoraConfig(2).init_lora_weights(name).target_modules(
              {"first", "second"}));
      EXPECT_NE(at_injection.find("second"), std::string::npos) << at_injection;
      EXPECT_TRUE(torch::equal(first->weight, before));
    }
  };
  test(nn::Linear(5, 5));
  test(torch::nn::Linear(5, 5));
  test(torch::nn::Embedding(5, 5));
}

TEST_P(UnwritableWeight, IsRefusedBeforeATableIsMerged) {
  auto first = test::on_device(nn::Embedding(5, 5));
  const auto net = model(first);
  const auto before = first->weight.detach().clone();
  auto peft = get_peft_model(
      *net,
      LoraConfig(2).target_modules({"first"}).trainable_token_indices(
          {{"second", {1, 2}}}));
  disturb(peft);
  EXPECT_NE(refusal([&] { peft.merge_adapter(); }), "");
  peft.unload();
  EXPECT_TRUE(torch::equal(first->weight, before));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    UnwritableWeight,
    testing::Values(
        Broken::kInference,
        Broken::kExpanded,
        Broken::kOverlapping));

TEST(Unwritable, ALayerThatBecomesSoStaysMergedWithTheOthers) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  nn::Linear first(5, 5), second(5, 5);
  net->register_module("first", first);
  net->register_module("second", second);
  auto peft = get_peft_model(
      *net,
      LoraConfig(2).init_lora_weights(false).target_modules(
          {"first", "second"}));
  peft.merge_adapter();
  const auto merged = first->weight.detach().clone();
  second->weight.set_data(test::randn({1, 5}).expand({5, 5}));
  EXPECT_NE(refusal([&] { peft.unmerge_adapter(); }), "");
  EXPECT_TRUE(torch::equal(first->weight, merged));
  EXPECT_TRUE(peft.layers()[0].second->merged());
}

TEST(Unwritable, WhatCannotBeTrainedIsNoModuleToSave) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  net->register_module("layer", nn::Linear(5, 5));
  {
    const c10::InferenceMode guard;
    net->register_module("head", nn::Linear(5, 5));
  }
  const auto config = LoraConfig(2).target_modules({"layer"});
  const auto text = refusal(*net, LoraConfig(config).modules_to_save({"head"}));
  EXPECT_NE(text.find("head.weight"), std::string::npos) << text;
  EXPECT_NE(refusal(*net, LoraConfig(config).bias("all")), "");
  EXPECT_TRUE(net->named_parameters().contains("layer.weight"));
  EXPECT_NO_THROW(get_peft_model(*net, config));
}

TEST(Unwritable, AParameterThatCannotBeFrozenIsNamed) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  auto layer = test::on_device(nn::Linear(5, 5));
  net->register_module("layer", layer);
  net->register_parameter("computed", layer->weight * 2);
  const auto text = refusal(*net, LoraConfig(2).target_modules({"layer"}));
  EXPECT_NE(text.find("\"computed\""), std::string::npos) << text;
  EXPECT_TRUE(net->named_parameters().contains("layer.weight"));
}

} // namespace
} // namespace torchlora
