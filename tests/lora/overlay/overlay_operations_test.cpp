// What operations meet in the place of an adapted layer's weight.
#include <sstream>

#include "device/device.h"
#include "lora/overlay/overlay_fixture.h"

namespace torchlora {
namespace {

using at::Tensor;
namespace F = torch::nn::functional;

class OverlayOperations : public Overlay {};

TEST_F(OverlayOperations, EveryOtherOperationSeesTheDenseWeight) {
  OneLayer one;
  const auto& weight = one.layer->weight;
  const auto expected = one.weight();
  const auto x = test::randn({3, 6});
  EXPECT_LT(difference(weight.norm(), expected.norm()), 1e-6);
  EXPECT_LT(
      difference(at::einsum("bi,oi->bo", {x, weight}), x.mm(expected.t())),
      1e-6);
  EXPECT_LT(
      difference(at::cat({weight, weight}), at::cat({expected, expected})),
      1e-6);
  EXPECT_LT(difference(weight.narrow(1, 2, 3), expected.narrow(1, 2, 3)), 1e-6);
  EXPECT_LT(difference(weight[2], expected[2]), 1e-6);
  EXPECT_LT(
      difference(at::matmul(weight, x.t()), at::matmul(expected, x.t())), 1e-6);
  EXPECT_LT(
      difference(
          at::addmm(test::ones({3, 4}), x, weight.t(), 0.5, 2),
          at::addmm(test::ones({3, 4}), x, expected.t(), 0.5, 2)),
      1e-5);
  const Tensor vector = x[0];
  EXPECT_LT(
      difference(at::linear(vector, weight), at::linear(vector, expected)),
      1e-6);
  // With a gradient of the factors.
  weight.square().sum().backward();
  EXPECT_TRUE(one.peft->trainable_parameters()[0].grad().defined());
}

TEST_F(OverlayOperations, PartsOfTheWeightAreAdapted) {
  OneLayer one(LoraConfig(2).use_dora(true));
  const auto expected = one.weight();
  const auto x = test::randn({2, 3, 6});
  for (const auto& [first, last] :
       {std::pair<int64_t, int64_t>(1, 3),
        std::pair<int64_t, int64_t>(-2, 9)}) {
    const auto part = one.layer->weight.slice(0, first, last);
    EXPECT_EQ(part.sizes(), expected.slice(0, first, last).sizes());
    EXPECT_LT(
        difference(
            F::linear(x, part), F::linear(x, expected.slice(0, first, last))),
        1e-5);
  }
}

TEST_F(OverlayOperations, ItsMetadataIsTheWeights) {
  OneLayer one;
  const auto& weight = one.layer->weight;
  EXPECT_EQ(weight.sizes(), (at::IntArrayRef{4, 6}));
  EXPECT_EQ(weight.t().sizes(), (at::IntArrayRef{6, 4}));
  EXPECT_EQ(weight.scalar_type(), at::kFloat);
  EXPECT_EQ(weight.device(), test::test_device());
  one.model->to(torch::kDouble);
  EXPECT_EQ(one.layer->weight.scalar_type(), at::kDouble);
  const auto x = test::randn({3, 6}).to(torch::kDouble);
  EXPECT_EQ(one.layer->forward(x).scalar_type(), at::kDouble);
  // The registered parameter is the raw weight, and the only one of the layer
  // without an adapter.
  const auto raw = one.model->named_parameters()["layer.base_layer.weight"];
  EXPECT_TRUE(
      raw.is_same(one.peft->layers()[0].second->base_weight().weight()));
  EXPECT_FALSE(raw.requires_grad());
}

TEST_F(OverlayOperations, AWriteIsRefused) {
  OneLayer one;
  torch::NoGradGuard no_grad;
  const auto before = one.weight();
  EXPECT_THROW(one.layer->weight.mul_(2), c10::Error);
  EXPECT_THROW(one.layer->weight.set_data(test::zeros({4, 6})), c10::Error);
  EXPECT_THROW(torch::nn::init::normal_(one.layer->weight), c10::Error);
  EXPECT_TRUE(torch::equal(one.weight(), before));
}

TEST_F(OverlayOperations, AReadOfItsMemoryIsRefused) {
  OneLayer one;
  EXPECT_THROW(one.layer->weight.data_ptr(), c10::Error);
  EXPECT_THROW(one.layer->weight.storage(), c10::Error);
  std::ostringstream file;
  try {
    torch::save(one.layer->weight, file);
    ADD_FAILURE() << "saved";
  } catch (const c10::Error& e) {
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring, "merge or unload", e.what_without_backtrace());
  }
}

TEST_F(OverlayOperations, WhatADenseWeightCannotHaveIsRefusedOrSaid) {
  OneLayer one(LoraConfig(2).lora_bias(true));
  const auto x = test::randn({3, 6});
  EXPECT_NO_THROW(one.layer->forward(x));
  EXPECT_NE(
      refusal([&] { (void)one.layer->weight.norm(); }).find("lora_bias"),
      std::string::npos);
  one.peft->merge_and_unload();
  EXPECT_NO_THROW((void)one.layer->weight.norm());

  Warnings warnings;
  OneLayer dropped(LoraConfig(2).lora_dropout(0.5));
  (void)dropped.layer->weight.norm();
  EXPECT_NE(warnings.text.find("lora_dropout does not act"), std::string::npos)
      << warnings.text;
}

TEST_F(OverlayOperations, AKeptHandleIsThePlainWeightAfterUnload) {
  OneLayer one;
  const auto kept = one.layer->weight;
  one.peft->unload();
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(kept + 0, one.layer->weight));
  kept.mul_(2);
  EXPECT_TRUE(torch::equal(kept + 0, one.layer->weight));
}

} // namespace
} // namespace torchlora
