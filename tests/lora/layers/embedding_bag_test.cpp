// What an EmbeddingBag has beside other layer types: offsets, weights per
// sample, padding, modes.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;
using torch::nn::EmbeddingBag;
using torch::nn::EmbeddingBagOptions;

struct Bags {
  explicit Bags(const EmbeddingBagOptions& options)
      : bag(model->register_module(
            "bag",
            test::on_device(EmbeddingBag(options)))) {}
  PeftModel adapt() {
    auto peft = get_peft_model(*model, LoraConfig(3).target_modules({"bag"}));
    torch::NoGradGuard no_grad;
    for (auto& parameter : peft.trainable_parameters()) {
      parameter.normal_();
    }
    return peft;
  }
  std::shared_ptr<torch::nn::Module> model =
      std::make_shared<torch::nn::Module>("Model");
  EmbeddingBag bag;
};

class EmbeddingBagTest : public testing::Test {
 protected:
  EmbeddingBagTest() {
    torch::manual_seed(2);
  }
  void SetUp() override {
    if (!has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
  /// Two bags of three and two indices, and an empty one.
  Tensor indices_ = test::tensor({1, 5, 1, 7, 2}, at::kLong);
  Tensor offsets_ = test::tensor({0, 3, 5}, at::kLong);
};

TEST_F(EmbeddingBagTest, BagsOfOffsetsAreThoseOfTheAdaptedTable) {
  for (const auto& options :
       {EmbeddingBagOptions(9, 6).mode(torch::kSum),
        EmbeddingBagOptions(9, 6).mode(torch::kMean),
        EmbeddingBagOptions(9, 6).mode(torch::kSum).padding_idx(5)}) {
    Bags bags(options);
    auto peft = bags.adapt();
    const auto output = bags.bag(indices_, offsets_);
    output.square().sum().backward();
    for (const auto& parameter : peft.trainable_parameters()) {
      EXPECT_GT(parameter.grad().abs().max().item<double>(), 0);
    }
    const auto table = peft.layers()[0].second->adapted_weight().detach();
    const auto rows = at::embedding(table, indices_);
    const bool has_padding = options.padding_idx().has_value();
    auto first = rows[0] + rows[2];
    first = has_padding ? first : first + rows[1];
    auto expected = at::stack({first, rows[3] + rows[4], test::zeros({6})});
    if (std::holds_alternative<torch::enumtype::kMean>(options.mode())) {
      expected = expected / test::tensor({3., 2., 1.}).unsqueeze(1);
    }
    EXPECT_LT(difference(output, expected), 1e-5);
    peft.merge_and_unload();
    EXPECT_LT(difference(bags.bag(indices_, offsets_), output), 1e-5);
  }
}

TEST_F(EmbeddingBagTest, WeightsPerSampleActOnTheUpdateToo) {
  Bags bags(EmbeddingBagOptions(9, 6).mode(torch::kSum));
  auto peft = bags.adapt();
  const auto weights = test::randn({5});
  const auto output = bags.bag(indices_, offsets_, weights);
  peft.merge_and_unload();
  EXPECT_LT(difference(bags.bag(indices_, offsets_, weights), output), 1e-5);
}

TEST_F(EmbeddingBagTest, WhatIsNotLinearInTheTableIsRefused) {
  for (const auto& options :
       {EmbeddingBagOptions(9, 6).mode(torch::kMax),
        EmbeddingBagOptions(9, 6).max_norm(1.0)}) {
    Bags bags(options);
    const auto text = refusal([&] { bags.adapt(); });
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "EmbeddingBag", text);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "exclude_modules", text);
  }
  Bags bags(EmbeddingBagOptions(9, 6));
  auto peft = bags.adapt();
  bags.model->eval();
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "EmbeddingBag", refusal([&] {
                        (void)peft.mixed_batch({"default"});
                      }));
}

} // namespace
} // namespace torchlora
