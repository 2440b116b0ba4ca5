// Against peft (tests/reference/make_intruder_goldens.py) and by definition.
#include <torchlora/tools/intruders.h>

#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>

#include "lora/layer_suite.h"
#include "support.h"

namespace torchlora::test {
namespace {

using at::Tensor;

TEST(Intruders, AreFoundAndReducedAsPeftDoes) {
  struct NetImpl : torch::nn::Module {
    nn::Linear up = register_module("up", nn::Linear(20, 24));
    nn::Linear down = register_module("down", nn::Linear(24, 16));
  };
  const io::SafetensorsFile file(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" /
      "intruders.safetensors");
  auto model = test::make_module<NetImpl>();
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    item.value().copy_(file.tensor("base." + item.key()));
  }
  auto peft = get_peft_model(
      *model,
      LoraConfig(3)
          .lora_alpha(6)
          .alpha_pattern({{"down", 5}})
          .target_modules({"up", "down"}));
  const std::string prefix = "base_model.model.";
  for (auto& item : peft.state_dict()) {
    item.value().copy_(
        file.tensor("adapter." + item.key().substr(prefix.size())));
  }
  const auto report =
      reduce_intruder_dimension(peft, "default", "reduced", 6, 0.6, 0.4);
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"reduced"});
  ASSERT_EQ(report.size(), 2U);
  const auto layers = peft.layers();
  for (size_t i = 0; i < 2; ++i) {
    const auto& [name, layer] = layers[i];
    EXPECT_EQ(report[i].module, name);
    EXPECT_EQ(
        static_cast<int64_t>(report[i].intruders.size()),
        file.tensor("count." + name).item<int64_t>());
    const auto expected = file.tensor("update." + name);
    EXPECT_LT(
        difference(layer->get_delta_weight("reduced"), expected),
        1e-5 * expected.abs().max().item<double>());
    EXPECT_EQ(
        report[i].intruders.empty(),
        torch::equal(
            layer->get_delta_weight("reduced"),
            layer->get_delta_weight("default")));
  }
  // Shared out evenly.
  const auto* reduced = peft.layers()[0].second->find_adapter("reduced");
  EXPECT_LT(
      difference(
          reduced->lora_A->weight.norm(2, {1}),
          reduced->lora_B->weight.norm(2, {0})),
      1e-5);
}

/// A model of every layer type with an adapter that has intruders.
template <class Type>
class IntruderSuite : public LayerSuite<Type> {
 protected:
  IntruderSuite() : LayerSuite<Type>(21) {}
  PeftModel adapt_strongly(const LoraConfig& config) {
    auto peft = this->adapt(config);
    randomize(peft, "default", 1);
    return peft;
  }
};
TYPED_TEST_SUITE(IntruderSuite, MatrixLayerTypes);

// With all of every intruder's part left nothing changes.
TYPED_TEST(IntruderSuite, TheReportIsByDefinitionAndNothingIsLostAtOne) {
  auto peft = this->adapt_strongly(LoraConfig(3));
  const auto before = this->run();
  const auto report = intruder_dimensions(peft, "default", 4, 0.9);
  EXPECT_EQ(peft.adapter_names().size(), 1U);
  size_t found = 0;
  for (size_t i = 0; i < report.size(); ++i) {
    const auto layer = peft.layers()[i].second;
    torch::NoGradGuard no_grad;
    const auto W = layer->base_weight().matrix();
    const auto [U0, S0, V0] = at::linalg_svd(W, false);
    const auto [U, S, V] =
        at::linalg_svd(W + layer->get_delta_weight("default"), false);
    const auto cosines = at::mm(U.t(), U0).abs().amax(1);
    std::vector<int64_t> expected;
    for (int64_t k = 0; k < 4; ++k) {
      if (cosines[k].template item<double>() < 0.9) {
        expected.push_back(k);
      }
    }
    ASSERT_EQ(report[i].intruders.size(), expected.size());
    for (size_t k = 0; k < expected.size(); ++k) {
      const auto& one = report[i].intruders[k];
      EXPECT_EQ(one.index, expected[k]);
      EXPECT_NEAR(
          one.singular_value, S[one.index].template item<double>(), 1e-4);
      EXPECT_NEAR(one.cosine, cosines[one.index].template item<double>(), 1e-4);
    }
    found += expected.size();
  }
  EXPECT_GT(found, 0U);
  reduce_intruder_dimension(peft, "default", "same", 4, 0.9, 1);
  const auto size = before.abs().max().template item<double>();
  EXPECT_LT(this->difference(this->run(), before), 2e-4 * size);
  reduce_intruder_dimension(peft, "default", "less", 4, 0.9, 0);
  EXPECT_GT(this->difference(this->run(), before), 1e-2);
  peft.set_adapter("default");
  EXPECT_LT(this->difference(this->run(), before), 1e-6);
}

// peft draws a new bias.
TEST(Intruders, ABiasOfBIsKept) {
  auto model = test::make_module<PairImpl<LinearType>>();
  auto peft = get_peft_model(
      *model, LoraConfig(2).lora_bias(true).target_modules({"target"}));
  reduce_intruder_dimension(peft);
  const auto layer = peft.layers()[0].second;
  EXPECT_TRUE(torch::equal(
      layer->find_adapter("default")->lora_B->bias,
      layer->find_adapter("intruder_reduced")->lora_B->bias));
}

// A spectrum that falls, so that leading parts decide, and a half-precision
// weight.
TEST(Intruders, OfALargeLayer) {
  struct HolderImpl : torch::nn::Module {
    nn::Linear layer = register_module("layer", nn::Linear(200, 220));
  };
  torch::manual_seed(6);
  auto model = test::make_module<HolderImpl>();
  torch::NoGradGuard no_grad;
  const auto U = std::get<0>(at::linalg_qr(test::randn({220, 200})));
  const auto V = std::get<0>(at::linalg_qr(test::randn({200, 200})));
  model->layer->weight.copy_(
      at::mm(U * (1 / test::arange(1, 201, at::kFloat)), V.t()));
  model->to(at::kBFloat16);
  auto peft = get_peft_model(
      *model, LoraConfig(2).lora_alpha(2).target_modules({"layer"}));
  const auto* adapter = peft.layers()[0].second->find_adapter("default");
  adapter->lora_A->weight.normal_();
  adapter->lora_B->weight.zero_();
  EXPECT_TRUE(intruder_dimensions(peft, "default", 3)[0].intruders.empty());
  adapter->lora_B->weight.normal_().mul_(0.5 / 200);
  const auto report = intruder_dimensions(peft, "default", 3);
  const auto W = peft.layers()[0].second->base_weight().matrix().to(at::kFloat);
  const auto merged =
      W + peft.layers()[0].second->get_delta_weight("default").to(at::kFloat);
  const auto cosines =
      at::mm(
          std::get<0>(at::linalg_svd(merged, false)).narrow(1, 0, 3).t(),
          std::get<0>(at::linalg_svd(W, false)))
          .abs()
          .amax(1);
  ASSERT_EQ(
      static_cast<int64_t>(report[0].intruders.size()),
      (cosines < 0.5).sum().item<int64_t>());
  ASSERT_FALSE(report[0].intruders.empty());
  for (const auto& one : report[0].intruders) {
    EXPECT_NEAR(one.cosine, cosines[one.index].item<double>(), 1e-3);
  }
}

TEST(Intruders, WhatCannotBeAnalysedIsRefused) {
  auto model = test::make_module<PairImpl<LinearType>>();
  const auto config = LoraConfig(2).target_modules({"target", "other"});
  for (const auto& bad :
       {LoraConfig(config).use_dora(true),
        LoraConfig(config).init_lora_weights("pissa")}) {
    auto peft = get_peft_model(*model, bad);
    EXPECT_THROW(intruder_dimensions(peft), c10::ValueError);
    EXPECT_THROW(reduce_intruder_dimension(peft), c10::ValueError);
    EXPECT_EQ(peft.adapter_names().size(), 1U);
    peft.unload();
  }
  auto peft = get_peft_model(*model, config);
  EXPECT_THROW(intruder_dimensions(peft, "other"), c10::ValueError);
  EXPECT_THROW(intruder_dimensions(peft, "default", 0), c10::ValueError);
  EXPECT_THROW(
      reduce_intruder_dimension(peft, "default", "default"), c10::ValueError);
  peft.merge_adapter();
  EXPECT_THROW(intruder_dimensions(peft), c10::ValueError);
}

} // namespace
} // namespace torchlora::test
