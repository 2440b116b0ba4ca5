// What target_parameters match, and what is refused there.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/tools/intruders.h>

#include "device/device.h"
#include "lora/layers/experts_net.h"

namespace torchlora::experts_test {
namespace {

namespace fs = std::filesystem;

TEST(TargetParameters, NestAsInPeftInAnyOrderOfTheList) {
  for (const bool reversed : {false, true}) {
    auto net = test::make_module<NetImpl>();
    auto list = kBoth;
    if (reversed) {
      std::reverse(list.begin(), list.end());
    }
    auto peft = get_peft_model(*net, config(list).target_modules({"head"}));
    std::vector<std::string> names;
    for (const auto& [name, layer] : peft.layers()) {
      names.push_back(name);
    }
    EXPECT_EQ(
        names,
        (std::vector<std::string>{"layer.up_proj", "layer.down_proj", "head"}));
    const auto tensors = peft.state_dict();
    const std::string prefix = "base_model.model.layer.";
    EXPECT_EQ(
        tensors[prefix + "base_layer.lora_A.weight"].sizes(),
        (std::vector<int64_t>{8, 6}));
    EXPECT_EQ(
        tensors[prefix + "base_layer.lora_B.weight"].sizes(),
        (std::vector<int64_t>{10, 8}));
    EXPECT_EQ(
        tensors[prefix + "lora_A.weight"].sizes(),
        (std::vector<int64_t>{8, 10}));
    EXPECT_TRUE(net->named_parameters().contains(
        "layer.base_layer.base_layer.up_proj"));
    for (const auto& item : net->named_parameters()) {
      EXPECT_EQ(
          item.value().requires_grad(),
          item.key().find("lora_") != std::string::npos)
          << item.key();
    }
    peft.unload();
    EXPECT_TRUE(net->named_parameters().contains("layer.up_proj"));
    EXPECT_EQ(net->named_children()["layer"], net->layer.ptr());
  }
  auto net = test::make_module<NetImpl>();
  auto one = get_peft_model(*net, config({"up_proj"}));
  EXPECT_TRUE(
      one.state_dict().contains("base_model.model.layer.lora_A.weight"));
}

TEST(TargetParameters, PatternsGoByTheParametersName) {
  const auto folder = fs::path(testing::TempDir()) / "experts_patterns";
  auto net = test::make_module<NetImpl>();
  auto peft = get_peft_model(
      *net,
      config()
          .rank_pattern({{"up_proj", 3}})
          .alpha_pattern({{"down_proj", 5}}));
  const auto up = peft.layers()[0].second->find_adapter("default");
  const auto down = peft.layers()[1].second->find_adapter("default");
  EXPECT_EQ(up->lora_A->weight.size(0), 12);
  EXPECT_EQ(down->lora_alpha, 5);
  peft.save_pretrained(folder);
  const auto saved = load_adapter_config(folder);
  EXPECT_EQ(saved.rank_pattern(), (LoraConfig::Pattern{{"up_proj", 3}}));
  EXPECT_EQ(saved.alpha_pattern(), (LoraConfig::Pattern{{"down_proj", 5}}));
}

TEST(TargetParameters, WhatPeftRefusesIsRefusedByName) {
  auto net = test::make_module<NetImpl>();
  const std::vector<std::pair<LoraConfig, const char*>> cases{
      {config().lora_dropout(0.1), "lora_dropout"},
      {config().lora_bias(true), "lora_bias"},
      {config().use_dora(true), "use_dora"},
      {config().fan_in_fan_out(true), "fan_in_fan_out"},
      {config().init_lora_weights("pissa"), "\"pissa\""},
      {config().init_lora_weights("olora"), "\"olora\""},
      {config({"scale"}), "1 dimensions"},
      {config({"own"}), "top-level"},
      {config({"head.weight"}), "nn::StackedExperts"},
      {config({"head.weight"}).target_modules({"head"}), "nn::StackedExperts"},
      {config({"gate"}), "no `target_parameters` found"},
  };
  for (const auto& [bad, expected] : cases) {
    EXPECT_NE(refusal(*net, bad).find(expected), std::string::npos)
        << expected << ": " << refusal(*net, bad);
    EXPECT_TRUE(net->named_parameters().contains("layer.up_proj"));
  }
  auto peft = get_peft_model(*net, config());
  EXPECT_THROW(peft.add_adapter("b", config({"up_proj"})), c10::ValueError);
  peft.add_adapter("head", LoraConfig(2).target_modules({"head"}));
  peft.add_adapter("same", config());
  EXPECT_THROW(
      peft.add_weighted_adapter({"default", "same"}, {1, 1}, "sum"),
      c10::ValueError);
  EXPECT_THROW(intruder_dimensions(peft, "default"), c10::ValueError);
  peft.unload();
  auto one = get_peft_model(*net, config({"up_proj"}));
  EXPECT_THROW(one.add_adapter("b", config()), c10::ValueError);
  EXPECT_THROW(
      get_peft_model(
          *test::make_module<NetImpl>(),
          config().velora_config(VeloraConfig())),
      c10::ValueError);
}

// Deleting the last adapter takes the nesting away.
TEST(TargetParameters, AfterADeleteOthersMayBeTargeted) {
  auto net = test::make_module<NetImpl>();
  const auto x = test::randn({9, 6});
  const auto before = net->layer(x, kIds);
  auto peft = get_peft_model(*net, config());
  peft.delete_adapter("default");
  EXPECT_TRUE(net->named_parameters().contains("layer.up_proj"));
  peft.add_adapter("one", config({"up_proj"}));
  EXPECT_TRUE(
      peft.state_dict("one").contains("base_model.model.layer.lora_A.weight"));
  EXPECT_LT(difference(net->layer(x, kIds), before), 1e-6);
}

TEST(TargetParameters, WhatMatchedNothingIsSaid) {
  const auto warnings = [](const LoraConfig& config) {
    const Warnings collected;
    auto net = test::make_module<NetImpl>();
    get_peft_model(*net, config);
    return collected.text;
  };
  EXPECT_EQ(warnings(config()), "");
  EXPECT_NE(
      warnings(config({"up_proj", "gate"}))
          .find("target_parameters matched no parameter: ['gate']"),
      std::string::npos);
  EXPECT_NE(
      warnings(config({"gate"}).target_modules({"head"})).find("['gate']"),
      std::string::npos);
  EXPECT_NE(
      warnings(config().target_modules({"tail"})).find("['tail']"),
      std::string::npos);
}

TEST(TargetParameters, AModuleInsideOfTheExpertsIsNotAdaptedWithThem) {
  struct OuterImpl : torch::nn::Module, nn::StackedExperts {
    Tensor up = register_parameter("up", test::randn({2, 3, 4}));
    nn::Linear gate = register_module("gate", nn::Linear(4, 2));
  };
  struct HolderImpl : torch::nn::Module {
    std::shared_ptr<OuterImpl> experts =
        register_module("experts", test::make_module<OuterImpl>());
  };
  auto net = test::make_module<HolderImpl>();
  EXPECT_NE(
      refusal(*net, config({"experts.up"}).target_modules({"gate"}))
          .find("experts.gate"),
      std::string::npos);
  auto peft = get_peft_model(*net, config({"experts.up"}));
  EXPECT_EQ(peft.layers().size(), 1U);
}

TEST(StackedExperts, ClonesUnlessAdapted) {
  auto net = test::make_module<NetImpl>();
  const auto x = test::randn({9, 6});
  auto copy = std::dynamic_pointer_cast<ExpertsImpl>(net->layer->clone());
  EXPECT_TRUE(torch::equal(copy->forward(x, kIds), net->layer(x, kIds)));
  auto peft = get_peft_model(*net, config());
  EXPECT_THROW(net->layer->clone(), c10::Error);
  peft.unload();
  EXPECT_NO_THROW(net->layer->clone());
}

TEST(StackedExperts, ChecksWhatItIsGiven) {
  struct OpenImpl : ExpertsImpl {
    using ExpertsImpl::expert_linear;
    using ExpertsImpl::ExpertsImpl;
  };
  OpenImpl experts(3, false);
  const auto x = test::randn({4, 6});
  EXPECT_THROW(experts.expert_linear("up_proj", x, {2, 2}), c10::ValueError);
  EXPECT_THROW(experts.expert_linear("up_proj", x, {1, 1, 1}), c10::ValueError);
  EXPECT_THROW(experts.expert_linear("gate", x, {4, 0, 0}), c10::ValueError);
  EXPECT_THROW(experts.expert_product("up_proj").base_forward(x), c10::Error);
  EXPECT_THROW(nn::sort_by_expert(test::tensor({0, 3}), 3), c10::ValueError);
  EXPECT_EQ(
      experts.expert_linear("up_proj", x.narrow(0, 0, 0), {0, 0, 0}).sizes(),
      (std::vector<int64_t>{0, 10}));
}

} // namespace
} // namespace torchlora::experts_test
