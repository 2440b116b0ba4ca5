#include <torchlora/optim/lorafa.h>

#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/nn/conv.h>

#include "optim/golden_net.h"
#include "support.h"

namespace torchlora::test {
namespace {

LoraConfig config() {
  return LoraConfig(4)
      .lora_alpha(6)
      .target_modules({"table", "up", "down"})
      .use_rslora(true)
      .rank_pattern({{"up", 3}})
      .alpha_pattern({{"down", 5}});
}

TEST(LoraFATest, TrainsAsPeftDoesWithPatternsAndOtherParameters) {
  GoldenRun run("lorafa", config());
  for (auto& parameter : run.model->norm->parameters()) {
    parameter.set_requires_grad(true);
  }
  const auto optimizer = create_lorafa_optimizer(
      *run.model, LoraFAOptions(0.02).weight_decay(0.1));
  for (const auto& [name, layer] : run.peft.layers()) {
    EXPECT_FALSE(layer->find_adapter("default")->lora_A->weight.requires_grad())
        << name;
  }
  run.train_and_compare(*optimizer);
}

// peft's projection is in bf16, ours in fp32: the same to bf16's rounding.
TEST(LoraFATest, Bf16ParametersFollowPeft) {
  const io::SafetensorsFile file(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" /
      "optimizers.safetensors");
  const auto B =
      test::on_device(file.tensor("lorafa_bf16/B")).clone().requires_grad_();
  LoraFA optimizer(
      {{test::on_device(file.tensor("lorafa_bf16/A")), B, 1.5}},
      {},
      LoraFAOptions(0.02).weight_decay(0.1));
  for (const auto& grad :
       test::on_device(file.tensor("lorafa_bf16/grads")).unbind()) {
    B.mutable_grad() = grad;
    optimizer.step();
  }
  const auto expected = file.tensor("lorafa_bf16/trained").to(at::kFloat);
  EXPECT_EQ(B.scalar_type(), at::kBFloat16);
  EXPECT_LT(difference(B.detach().to(at::kFloat), expected), 8e-3);
  EXPECT_GT(
      difference(file.tensor("lorafa_bf16/B").to(at::kFloat), expected), 4e-2);
}

// By the definition: with plain gradient steps the weight moves by the part of
// its own gradient that A reaches.
TEST(LoraFATest, AConvolutionsFactorsAreMatrices) {
  struct HolderImpl : torch::nn::Module {
    nn::Conv1d conv =
        register_module("conv", nn::Conv1d(torch::nn::Conv1dOptions(3, 5, 2)));
  };
  torch::manual_seed(0);
  auto model = test::make_module<HolderImpl>();
  model->to(at::kDouble);
  auto peft = get_peft_model(
      *model, LoraConfig(2).lora_alpha(3).target_modules({"conv"}));
  const auto layer = peft.layers()[0].second;
  const auto A = layer->find_adapter("default")->lora_A->weight.flatten(1);
  const auto& B = layer->find_adapter("default")->lora_B->weight;
  // One step of Adam without bias correction or memory is lr · sign(g).
  const auto optimizer = create_lorafa_optimizer(
      *model, LoraFAOptions(1).betas({0, 0}).eps(1e8).correct_bias(false));
  const auto weight_grad = test::randn({5, 6}, at::kDouble);
  B.mutable_grad() = (1.5 * at::mm(weight_grad, A.t())).view_as(B);
  optimizer->step();
  const auto expected = -at::mm(weight_grad, at::linalg_pinv(A)).detach() / 1.5;
  EXPECT_LT(difference(B.detach().flatten(1) * 1e8, expected), 1e-5);
}

TEST(LoraFATest, StateSurvivesSaveAndLoad) {
  if (test::test_device().is_hpu()) {
    GTEST_SKIP() << "LibTorch's archives do not know the fake device";
  }
  const auto train = [](LoraFA& optimizer, const at::Tensor& B, int steps) {
    for (int i = 0; i < steps; ++i) {
      B.mutable_grad() = at::sin(B.detach() * 7);
      optimizer.step();
    }
  };
  torch::manual_seed(1);
  const auto A = test::randn({2, 6});
  const auto B = test::randn({5, 2}).requires_grad_();
  const auto options = LoraFAOptions(0.1).betas({0.7, 0.8}).weight_decay(0.2);
  LoraFA first({{A, B, 2}}, {}, options);
  train(first, B, 3);
  const auto resumed = B.detach().clone().requires_grad_();
  std::stringstream stream;
  torch::save(first, stream);
  LoraFA second({{A, resumed, 2}}, {}, LoraFAOptions(9));
  torch::load(second, stream);
  train(first, B, 3);
  train(second, resumed, 3);
  EXPECT_TRUE(torch::equal(B, resumed));
}

TEST(LoraFATest, RefusesWhatNeverLearns) {
  auto model = test::make_module<GoldenNetImpl>();
  EXPECT_THROW(create_lorafa_optimizer(*model), c10::ValueError);
  for (const auto& bad :
       {LoraConfig(4).target_modules({"table"}), // A is zero
        LoraConfig(4).target_modules({"up"}).init_lora_weights("mica")}) {
    auto peft = get_peft_model(*model, bad);
    EXPECT_THROW(create_lorafa_optimizer(*model), c10::ValueError);
    EXPECT_EQ(peft.trainable_parameters().empty(), false);
    peft.unload();
  }
  EXPECT_THROW(LoraFA({}, {}, LoraFAOptions(-1)), c10::ValueError);
  const auto one = test::ones({1, 1});
  EXPECT_THROW(LoraFA({{one, one, 0}}, {}), c10::ValueError);
}

// Where peft pairs the wrong tensors: a bias or a magnitude beside the factors.
TEST(LoraFATest, BiasesMagnitudesAndOtherAdaptersDoNotDisturbThePairs) {
  for (const bool dora : {true, false}) {
    torch::manual_seed(3);
    auto model = test::make_module<GoldenNetImpl>();
    const auto values = LoraConfig(2)
                            .target_modules({"up", "down"})
                            .use_dora(dora)
                            .lora_bias(!dora);
    auto peft = get_peft_model(*model, values);
    peft.add_adapter("other", values);
    const auto optimizer =
        create_lorafa_optimizer(*model, LoraFAOptions(0.01).betas({0, 0}));
    const auto layer = peft.layers()[1].second;
    const auto* adapter = layer->find_adapter("default");
    const auto* other = layer->find_adapter("other");
    const auto A = adapter->lora_A->weight.clone();
    const auto other_B = other->lora_B->weight.clone();
    const auto& extra = dora ? adapter->variant_tensor("lora_magnitude_vector")
                             : adapter->lora_B->bias;
    const auto extra_before = extra.detach().clone();
    model->forward(test::arange(20)).square().sum().backward();
    optimizer->step();
    EXPECT_TRUE(torch::equal(adapter->lora_A->weight, A));
    EXPECT_TRUE(torch::equal(other->lora_B->weight, other_B));
    // The first step of Adam is of the size of the learning rate.
    EXPECT_NEAR(adapter->lora_B->weight.abs().max().item<double>(), 0.01, 1e-4);
    EXPECT_NEAR(difference(extra.detach(), extra_before), 0.01, 1e-4);
  }
}

} // namespace
} // namespace torchlora::test
