#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>
#include <torchlora/tools/preprocess.h>

#include "init/data_goldens.h"
#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

using test::NetImpl;

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(const Tensor& weight)
      : layer(register_module(
            "layer",
            nn::Linear(nn::LinearImpl::from_weight(weight.clone())))) {}
  nn::Linear layer;
};

LoraConfig config_of(const std::string& name) {
  return LoraConfig(4)
      .lora_alpha(6)
      .target_modules({"layer"})
      .init_lora_weights(name);
}

class DataInitializerGoldens : public testing::Test {
 protected:
  Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(case_ + "/" + name));
  }
  std::shared_ptr<HolderImpl> start(const std::string& name) {
    case_ = name;
    return test::make_module<HolderImpl>(golden("weight"));
  }
  void compare(
      HolderImpl& model,
      const LoraConfig& config,
      const InitStatistics& statistics = {}) {
    torch::manual_seed(5);
    const auto peft = get_peft_model(
        model, config, "default", InjectOptions().init_statistics(statistics));
    const auto layer = peft.layers().at(0).second;
    const auto* adapter = layer->find_adapter("default");
    const auto A = adapter->lora_A->weight.detach();
    const auto B = adapter->lora_B->weight.detach();
    const auto signs = at::sign((B * golden("B")).sum(0));
    const double size = golden("B").abs().max().item<double>();
    EXPECT_LT(difference(B * signs, golden("B")), 2e-5 * size) << case_;
    EXPECT_LT(
        difference(A * signs.unsqueeze(1), golden("A")),
        5e-5 * golden("A").abs().max().item<double>())
        << case_;
    EXPECT_LT(
        difference(layer->base_weight().weight(), golden("residual")), 1e-5)
        << case_;
  }
  io::SafetensorsFile file_ = test::data_goldens();
  std::string case_;
};

TEST_F(DataInitializerGoldens, CordaIsThatOfPeft) {
  for (const std::string method : {"ipm", "kpm"}) {
    auto model = start("corda_" + method);
    auto config =
        config_of("corda").corda_config(CordaConfig().corda_method(method));
    const auto statistics = preprocess_corda(*model, config, [&] {
      for (const auto& x : golden("inputs").unbind()) {
        model->layer(x);
      }
    });
    compare(*model, config, statistics);
  }
}

TEST_F(DataInitializerGoldens, LoraGaIsThatOfPeft) {
  const std::pair<std::string, std::string> cases[]{
      {"ArB2r", "stable"},
      {"A2rBr", "weight_svd"},
      {"ArBr", "gd_scale"},
      {"random", "unit"}};
  for (const auto& [direction, scale] : cases) {
    auto model = start("lora_ga_" + direction + "_" + scale);
    auto config = config_of("lora_ga").lora_ga_config(
        LoraGAConfig().direction(direction).scale(scale).stable_gamma(9));
    const auto statistics = preprocess_loraga(*model, config, [&] {
      for (int i = 0; i < 3; ++i) {
        // Zeroed between the passes, which must not matter.
        model->zero_grad();
        (model->layer(golden("inputs")[i]) - golden("targets")[i])
            .square()
            .mean()
            .backward();
      }
    });
    compare(*model, config, statistics);
  }
}

TEST_F(DataInitializerGoldens, LoftqIsThatOfBitsandbytesAndPeft) {
  for (const auto& [bits, iterations] :
       {std::pair(4, 1), std::pair(4, 3), std::pair(8, 1)}) {
    auto model = start(fmt::format("loftq_{}_{}", bits, iterations));
    compare(
        *model,
        config_of("loftq").lora_alpha(4).loftq_config(
            LoftQConfig().loftq_bits(bits).loftq_iter(iterations)));
  }
}

TEST(Preprocess, LeavesNothingOnTheModelAlsoAfterAnError) {
  auto model = test::make_module<NetImpl>();
  model->eval();
  model->c->train();
  model->b->weight.set_requires_grad(false);
  model->a->weight.mutable_grad() = test::ones({12, 16});
  const auto x = test::randn({7, 36});
  const auto check = [&] {
    EXPECT_FALSE(model->is_training());
    EXPECT_FALSE(model->a->is_training());
    EXPECT_TRUE(model->c->is_training());
    EXPECT_FALSE(model->b->weight.requires_grad());
    EXPECT_TRUE(model->a->bias.requires_grad());
    EXPECT_FALSE(model->c->weight.grad().defined());
    EXPECT_TRUE(torch::equal(model->a->weight.grad(), test::ones({12, 16})));
    for (const auto& layer : {model->a, model->b, model->c, model->d}) {
      EXPECT_EQ(layer->redirect_target(), nullptr);
    }
  };
  auto config = LoraConfig(2)
                    .target_modules({"a", "c"})
                    .init_lora_weights("lora_ga")
                    .lora_ga_config(LoraGAConfig());
  const auto step = [&] {
    EXPECT_TRUE(model->is_training());
    EXPECT_FALSE(model->a->bias.requires_grad());
    model->forward(x).square().mean().backward();
  };
  EXPECT_EQ(preprocess_loraga(*model, config, step).size(), 2U);
  check();
  const auto fail = [&] {
    step();
    TORCH_CHECK(false, "stop");
  };
  EXPECT_THROW(preprocess_loraga(*model, config, fail), c10::Error);
  check();
  EXPECT_THROW(preprocess_loraga(*model, config, [] {}), c10::ValueError);
  check();

  config.init_lora_weights("corda").lora_ga_config(std::nullopt);
  const auto statistics = preprocess_corda(*model, config, [&] {
    EXPECT_FALSE(model->c->is_training());
    EXPECT_NE(model->a->redirect_target(), nullptr);
    EXPECT_EQ(model->b->redirect_target(), nullptr);
    model->forward(x);
  });
  check();
  EXPECT_THROW(
      preprocess_corda(*model, config, [] { TORCH_CHECK(false, "stop"); }),
      c10::Error);
  check();
  EXPECT_THROW(
      preprocess_corda(*model, config, [&] { model->a(test::randn({2, 16})); }),
      c10::ValueError);
  EXPECT_THROW(
      preprocess_corda(
          *model, config, [&] { model->forward(test::zeros({2, 36})); }),
      c10::ValueError);
  check();
  EXPECT_NO_THROW(get_peft_model(
      *model, config, "default", InjectOptions().init_statistics(statistics)));
}

TEST(Preprocess, ASecondAdapterIsInitializedOnAnAdaptedModel) {
  auto model = test::make_module<NetImpl>();
  const auto x = test::randn({40, 36});
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"a"}));
  auto config = LoraConfig(2).target_modules({"c"}).init_lora_weights("corda");
  const auto options = InjectOptions().init_statistics(
      preprocess_corda(*model, config, [&] { model->forward(x); }));
  const auto before = model->forward(x);
  peft.add_adapter("second", config, options);
  peft.set_adapter("second");
  EXPECT_LT(difference(model->forward(x), before), 1e-5);
  // The first one is of the weight that this would change.
  EXPECT_THROW(
      peft.add_adapter(
          "third",
          LoraConfig(2).target_modules({"a"}).init_lora_weights("olora")),
      c10::ValueError);
  EXPECT_EQ(peft.adapter_names().size(), 2U);
  EXPECT_THROW(
      preprocess_loraga(
          *model,
          config.init_lora_weights("lora_ga").lora_ga_config(LoraGAConfig()),
          [] {}),
      c10::ValueError);
}

TEST(DataInitializers, WhatTheyNeedIsSaid) {
  auto model = test::make_module<NetImpl>();
  const auto adapt = [&](LoraConfig config) {
    return refusal(
        [&] { get_peft_model(*model, config.target_modules({"c"})); });
  };
  const auto has = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  const auto corda = adapt(LoraConfig(2).init_lora_weights("corda"));
  has(corda, "preprocess_corda");
  has(corda, "module c");
  has(adapt(LoraConfig(2).init_lora_weights("lora_ga")), "lora_ga_config");
  has(adapt(LoraConfig(2).init_lora_weights("lora_ga").lora_ga_config(
          LoraGAConfig())),
      "preprocess_loraga");
  has(adapt(LoraConfig(2).init_lora_weights("loftq")), "loftq_config");
  has(adapt(LoraConfig(2).init_lora_weights("loftq").loftq_config(
          LoftQConfig().loftq_bits(2))),
      "4 or 8");
  has(adapt(LoraConfig(2).init_lora_weights("loftq").loftq_config(
          LoftQConfig().loftq_iter(0))),
      "greater than 0");
  has(adapt(LoraConfig(2).init_lora_weights("corda").corda_config(
          CordaConfig().corda_method("x"))),
      "'ipm', 'kpm'");
  has(adapt(LoraConfig(2).init_lora_weights("eva").eva_config(
          EvaConfig().rho(0.5))),
      ">= 1.0");
  has(adapt(LoraConfig(2).init_lora_weights("eva").eva_config(
          EvaConfig().tau(2))),
      "between 0.0 and 1.0");
  auto config = LoraConfig(6)
                    .target_modules({"c"})
                    .init_lora_weights("lora_ga")
                    .lora_ga_config(LoraGAConfig());
  const auto options =
      InjectOptions().init_statistics(preprocess_loraga(*model, config, [&] {
        model->forward(test::randn({3, 36})).sum().backward();
      }));
  has(refusal([&] { get_peft_model(*model, config, "default", options); }),
      "2 r <=");
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"c"}));
  has(refusal([&] { initialize_lora_eva_weights(peft, [] { return false; }); }),
      "init_lora_weights=\"eva\"");
}

TEST(DataInitializers, ProgressIsTold) {
  auto model = test::make_module<NetImpl>();
  std::vector<std::string> told;
  const auto peft = get_peft_model(
      *model,
      LoraConfig(2).target_modules({"a", "c", "d"}).init_lora_weights("olora"),
      "default",
      InjectOptions().init_progress(
          [&](size_t done, size_t total, const auto& name) {
            told.push_back(fmt::format("{}/{} {}", done, total, name));
          }));
  EXPECT_EQ(told, (std::vector<std::string>{"1/3 a", "2/3 c", "3/3 d"}));
}

} // namespace
} // namespace torchlora
