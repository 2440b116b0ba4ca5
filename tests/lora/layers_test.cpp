// The function of an adapted layer, of every type.
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "lora/layers_fixture.h"

namespace torchlora::test {
namespace {

using at::Tensor;

TYPED_TEST_SUITE(LoraLayers, LayerTypes);

TYPED_TEST(LoraLayers, AFreshAdapterChangesNothing) {
  const auto before = this->run();
  this->adapt();
  EXPECT_TRUE(torch::equal(this->run(), before));
}

TYPED_TEST(LoraLayers, InitFalseChangesTheOutput) {
  const auto before = this->run();
  this->adapt(LoraConfig(4).init_lora_weights(false));
  EXPECT_GT(this->difference(this->run(), before), 1e-3);
}

TYPED_TEST(LoraLayers, MergedEqualsUnmergedAndUnmergeRestores) {
  auto peft = this->adapt();
  fill_update(peft);
  std::vector<Tensor> weights;
  for (auto& [name, layer] : peft.layers()) {
    weights.push_back(layer->base_weight().weight().clone());
  }
  const auto unmerged = this->run();
  peft.merge_adapter();
  EXPECT_LT(this->difference(this->run(), unmerged), 1e-5);
  peft.unmerge_adapter();
  size_t i = 0;
  for (auto& [name, layer] : peft.layers()) {
    EXPECT_LT(
        this->difference(layer->base_weight().weight(), weights[i++]), 1e-6);
  }
  EXPECT_LT(this->difference(this->run(), unmerged), 1e-5);
}

TYPED_TEST(LoraLayers, MergedEqualsUnmergedInDouble) {
  this->cast(torch::kDouble);
  auto peft = this->adapt();
  fill_update(peft);
  const auto unmerged = this->run();
  peft.merge_adapter();
  EXPECT_LT(this->difference(this->run(), unmerged), 1e-12);
}

TYPED_TEST(LoraLayers, OnlyTheFactorsTrainAndTheirGradientsAreRight) {
  this->cast(torch::kDouble);
  if (this->x_.is_floating_point()) {
    this->x_.requires_grad_();
  }
  auto peft = this->adapt(LoraConfig(4).use_rslora(true));
  fill_update(peft);
  for (const auto& item : this->model_->named_parameters()) {
    EXPECT_EQ(
        item.value().requires_grad(),
        item.key().find("lora_") != std::string::npos)
        << item.key();
  }
  EXPECT_EQ(
      peft.trainable_parameters().size(), 2 * TypeParam::kFactorsOfALayer);
  this->model_->forward(this->x_).square().sum().backward();

  // The same by the dense weight.
  const auto layer = peft.layers()[0].second;
  const auto* adapter = layer->find_adapter("default");
  auto A = adapter->lora_A->weight.detach().clone().requires_grad_();
  auto B = adapter->lora_B->weight.detach().clone().requires_grad_();
  EXPECT_DOUBLE_EQ(adapter->scaling, 8 / std::sqrt(4.0));
  const auto base = layer->base_weight();
  const auto delta = adapter->scaling * TypeParam::product(base, A, B);
  auto x = this->x_.detach().clone();
  if (x.is_floating_point()) {
    x.requires_grad_();
  }
  auto other = this->model_->other(x);
  (TypeParam::dense(this->model_->target, x, base.weight().detach() + delta) -
   other.sin())
      .square()
      .sum()
      .backward();
  EXPECT_LT(this->difference(A.grad(), adapter->lora_A->weight.grad()), 1e-10);
  EXPECT_LT(this->difference(B.grad(), adapter->lora_B->weight.grad()), 1e-10);
  if (x.is_floating_point()) {
    EXPECT_LT(this->difference(x.grad(), this->x_.grad()), 1e-10);
  }
  EXPECT_GT(A.grad().abs().max().template item<double>(), 1e-6);
}

// As relu_ and += of models do.
TYPED_TEST(LoraLayers, TheOutputMayBeChangedInPlace) {
  auto peft = this->adapt();
  fill_update(peft);
  auto output = this->model_->target(this->x_);
  const auto expected = torch::relu(output);
  auto again = this->model_->target(this->x_);
  again.relu_();
  EXPECT_TRUE(torch::equal(again, expected));
  again.sum().backward();
}

TYPED_TEST(LoraLayers, DropoutActsInTrainingOnlyAndItsBackwardUsesTheSameMask) {
  this->cast(torch::kDouble);
  if (!TypeParam::kTakesDropout) {
    EXPECT_THROW(this->adapt(LoraConfig(4).lora_dropout(0.5)), c10::ValueError);
    return;
  }
  auto peft = this->adapt(LoraConfig(4).lora_dropout(0.5));
  fill_update(peft);
  this->model_->eval();
  const auto eval = this->run();
  EXPECT_TRUE(torch::equal(this->run(), eval));
  this->model_->train();
  if (!TypeParam::kHasDropout) {
    EXPECT_TRUE(torch::equal(this->run(), eval));
    return;
  }
  EXPECT_GT(this->difference(this->run(), eval), 1e-3);

  // d loss / d B by a difference quotient: the draw is repeated by its seed.
  auto B = peft.layers()[0].second->find_adapter("default")->lora_B->weight;
  const auto loss = [&] {
    torch::manual_seed(3);
    return this->model_->forward(this->x_).square().sum();
  };
  loss().backward();
  const double step = 1e-6;
  torch::NoGradGuard no_grad;
  B[0][0] += step;
  const auto above = loss().template item<double>();
  B[0][0] -= 2 * step;
  const auto below = loss().template item<double>();
  EXPECT_NEAR(
      B.grad()[0][0].template item<double>(),
      (above - below) / (2 * step),
      1e-5);
}

TYPED_TEST(LoraLayers, ABf16BaseHasFp32FactorsAndBf16Output) {
  this->cast(torch::kBFloat16);
  auto peft = this->adapt();
  for (const auto& parameter : peft.trainable_parameters()) {
    EXPECT_EQ(parameter.scalar_type(), torch::kFloat);
    EXPECT_TRUE(torch::equal( // rounded to the base's dtype once
        parameter,
        parameter.to(torch::kBFloat16).to(torch::kFloat)));
  }
  fill_update(peft);
  const auto output = this->run();
  EXPECT_EQ(output.scalar_type(), torch::kBFloat16);
  peft.merge_adapter();
  EXPECT_LT(
      this->difference(this->run().to(torch::kFloat), output.to(torch::kFloat)),
      0.03);
}

// Autocast rounds what forward keeps; backward runs outside of it. A value at
// a clamp's bound may round to its other side, so gradients agree roughly.
TYPED_TEST(LoraLayers, TrainsUnderAutocast) {
  const auto device = test_device().type();
  if (device == at::kHPU) {
    GTEST_SKIP() << "LibTorch has no autocast for the fake device";
  }
  auto peft = this->adapt();
  fill_update(peft);
  const auto exact = this->run();
  const auto gradients = [&](bool enabled) {
    this->model_->zero_grad();
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_enabled(device, enabled);
    const auto output = this->model_->forward(this->x_);
    at::autocast::set_autocast_enabled(device, false);
    at::autocast::clear_cache();
    EXPECT_EQ(
        output.scalar_type(),
        enabled && TypeParam::kAutocasts ? at::kBFloat16 : at::kFloat);
    EXPECT_LT(this->difference(output.to(at::kFloat), exact), 0.03);
    output.sum().backward();
    std::vector<Tensor> result;
    for (const auto& parameter : peft.trainable_parameters()) {
      result.push_back(parameter.grad());
    }
    return result;
  };
  const auto expected = gradients(false), found = gradients(true);
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(found[i].scalar_type(), at::kFloat);
    EXPECT_LT(
        ((found[i] - expected[i]).norm() / expected[i].norm())
            .template item<double>(),
        0.3);
  }
}

TYPED_TEST(LoraLayers, MovingTheModelMovesTheAdapterAndKeepsItAttached) {
  auto peft = this->adapt();
  fill_update(peft);
  const auto before = this->run();
  this->cast(torch::kDouble);
  EXPECT_LT(this->difference(this->run(), before.to(torch::kDouble)), 1e-5);
}

TYPED_TEST(LoraLayers, ACloneOfALayerIsTheSameFunction) {
  auto layer = on_device(TypeParam::make());
  typename TypeParam::Layer copy(
      std::dynamic_pointer_cast<typename TypeParam::Layer::ContainedType>(
          layer->clone()));
  ASSERT_TRUE(copy);
  EXPECT_TRUE(torch::equal(copy(this->x_), layer(this->x_)));
}

TYPED_TEST(LoraLayers, AnAdaptedModelDoesNotClone) {
  auto peft = this->adapt();
  EXPECT_THROW(peft.layers()[0].second->clone(), c10::Error);
}

// Its elements are typed, so a copy would quietly be the base model.
TYPED_TEST(LoraLayers, AnAdaptedSequentialDoesNotClone) {
  auto sequential = test::on_device(
      torch::nn::Sequential(TypeParam::make(), torch::nn::Tanh()));
  EXPECT_NO_THROW(sequential->clone());
  auto peft = get_peft_model(*sequential, this->target(LoraConfig(2), {"0"}));
  EXPECT_THROW(sequential->clone(), c10::Error);
  peft.unload();
  EXPECT_NO_THROW(sequential->clone());
}

TYPED_TEST(LoraLayers, NamesAreThoseOfPeft) {
  this->adapt();
  const auto parameters = this->model_->named_parameters();
  EXPECT_TRUE(parameters.contains(std::string("block.other.") + TypeParam::kA));
  EXPECT_TRUE(parameters.contains(std::string("block.other.") + TypeParam::kB));
  bool has_base = false;
  for (const auto& item : parameters) {
    has_base |= item.key().rfind("block.other.base_layer.", 0) == 0;
  }
  EXPECT_TRUE(has_base);
}

TEST(Scale, IsSetAndMultipliedAsInPeft) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("fc", nn::Linear(6, 4));
  auto peft = get_peft_model(
      *model,
      LoraConfig(4).lora_alpha(6).use_rslora(true).target_modules({"fc"}));
  const auto layer = peft.layers()[0].second;
  const auto scaling = [&] { return layer->find_adapter("default")->scaling; };
  EXPECT_EQ(scaling(), 3); // 6 / √4
  layer->set_scale("default", 0.5);
  EXPECT_EQ(scaling(), 1.5);
  layer->scale_layer(4);
  EXPECT_EQ(scaling(), 6);
  layer->unscale_layer(2);
  EXPECT_EQ(scaling(), 3);
  layer->scale_layer(7);
  layer->unscale_layer();
  EXPECT_EQ(scaling(), 3);
  peft.merge_adapter();
  EXPECT_THROW(layer->set_scale("default", 2), c10::ValueError);
  EXPECT_THROW(layer->scale_layer(2), c10::ValueError);
  EXPECT_THROW(layer->unscale_layer(), c10::ValueError);
}

} // namespace
} // namespace torchlora::test
