#include <filesystem>
#include <map>

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "lora/layer_types.h"

namespace torchlora::test {
namespace {
namespace fs = std::filesystem;

using at::Tensor;

/// Makes the update of each layer a tenth of its weight's norm.
void fill_update(PeftModel& peft, const std::string& adapter = "default") {
  torch::NoGradGuard no_grad;
  for (auto& [name, layer] : peft.layers()) {
    const auto* found = layer->find_adapter(adapter);
    if (!found) {
      continue;
    }
    found->lora_A->weight.normal_();
    found->lora_B->weight.normal_();
    const auto weight = layer->base_weight().weight();
    found->lora_B->weight.mul_(
        0.1 * weight.norm() / layer->delta_weight(adapter).norm());
  }
}

template <class Type>
class LoraLayers : public LayerSuite<Type> {
 protected:
  LoraLayers() : LayerSuite<Type>(7) {}
  void cast(at::ScalarType dtype) {
    this->model_->to(dtype);
    if (this->x_.is_floating_point()) {
      this->x_ = this->x_.to(dtype);
    }
  }
};
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
  auto delta = adapter->scaling * at::mm(B.flatten(1), A.flatten(1));
  delta = base.from_matrix(delta);
  auto x = this->x_.detach().clone();
  if (x.is_floating_point()) {
    x.requires_grad_();
  }
  refresh_weights(*this->model_);
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
  refresh_weights(*this->model_);
  auto output = this->model_->target(this->x_);
  const auto expected = torch::relu(output);
  auto again = this->model_->target(this->x_);
  again.relu_();
  EXPECT_TRUE(torch::equal(again, expected));
  again.sum().backward();
}

TYPED_TEST(LoraLayers, DropoutActsInTrainingOnlyAndItsBackwardUsesTheSameMask) {
  this->cast(torch::kDouble);
  const auto config = LoraConfig(4).lora_dropout(0.5);
  if (!TypeParam::kOverlay) {
    EXPECT_THROW(this->adapt(config), c10::ValueError);
    return;
  }
  auto peft = this->adapt(config);
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

TYPED_TEST(LoraLayers, DisablingNestsAndSurvivesExceptions) {
  const auto base = this->run();
  auto peft = this->adapt();
  fill_update(peft);
  const auto adapted = this->run();
  {
    auto outer = peft.disable_adapter();
    EXPECT_TRUE(torch::equal(this->run(), base));
    try {
      auto inner = peft.disable_adapter();
      throw std::runtime_error("out of the block");
    } catch (const std::runtime_error&) {
    }
    EXPECT_TRUE(torch::equal(this->run(), base));
  }
  EXPECT_TRUE(torch::equal(this->run(), adapted));
  peft.merge_adapter();
  {
    auto guard = peft.disable_adapter();
    EXPECT_LT(this->difference(this->run(), base), 1e-5);
  }
  EXPECT_LT(this->difference(this->run(), adapted), 1e-5);
}

// As PEFT's calls look.
TYPED_TEST(LoraLayers, NamesOfAdaptersComeInBracesOrAlone) {
  auto peft = this->adapt();
  peft.add_adapter("other", LoraConfig(2).target_modules({"target"}));
  peft.set_adapter({"default", "other"});
  EXPECT_EQ(peft.active_adapters().size(), 2U);
  peft.set_adapter({"other"});
  peft.set_adapter("other");
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"other"});
}

TYPED_TEST(LoraLayers, TwoActiveAdaptersAddUpAndMergeTogether) {
  auto peft = this->adapt();
  fill_update(peft);
  peft.add_adapter("second", LoraConfig(2).target_modules({"target", "other"}));
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"default"});
  fill_update(peft, "second");
  const auto first = this->run();
  peft.set_adapter("second");
  const auto second = this->run();
  EXPECT_GT(this->difference(first, second), 1e-3);
  peft.set_adapter(std::vector<std::string>{"default", "second"});
  const auto both = this->run();
  peft.merge_adapter();
  EXPECT_LT(this->difference(this->run(), both), 1e-5);
  peft.unmerge_adapter();
  peft.delete_adapter("second");
  EXPECT_LT(this->difference(this->run(), first), 1e-5);
  EXPECT_THROW(peft.delete_adapter("second"), c10::ValueError);
}

TYPED_TEST(LoraLayers, AMixedBatchIsEachElementThroughItsAdapter) {
  auto peft = this->adapt();
  fill_update(peft);
  // One that only a part of the layers has.
  peft.add_adapter("second", LoraConfig(2).target_modules({"target"}));
  fill_update(peft, "second");
  this->model_->eval();
  const std::vector<std::string> names{"second", "__base__", "default"};
  const auto pick = [&](int64_t size) {
    std::vector<std::string> result;
    for (int64_t i = 0; i < size; ++i) {
      result.push_back(names[static_cast<size_t>(i * i + 1) % names.size()]);
    }
    return result;
  };
  const auto chosen = pick(this->x_.size(0));
  if (!TypeParam::kMixes) {
    EXPECT_THROW((void)peft.mixed_batch(chosen), c10::ValueError);
    return;
  }
  std::map<std::string, Tensor> alone;
  for (const auto& name : {"default", "second"}) {
    peft.set_adapter(name);
    alone[name] = this->run();
  }
  {
    const auto guard = peft.disable_adapter();
    alone["__base__"] = this->run();
  }
  Tensor mixed;
  {
    const auto guard = peft.mixed_batch(chosen);
    mixed = this->run();
    EXPECT_THROW(
        this->model_->forward(at::cat({this->x_, this->x_})), c10::ValueError);
  }
  for (int64_t i = 0; i < this->x_.size(0); ++i) {
    EXPECT_LT(
        this->difference(mixed[i], alone[chosen[static_cast<size_t>(i)]][i]),
        1e-5)
        << i;
  }
  EXPECT_TRUE(torch::equal(this->run(), alone["second"]));

  EXPECT_THROW((void)peft.mixed_batch({"third"}), c10::ValueError);
  peft.merge_adapter();
  EXPECT_THROW((void)peft.mixed_batch(chosen), c10::ValueError);
  peft.unmerge_adapter();
  this->model_->train();
  EXPECT_THROW((void)peft.mixed_batch(chosen), c10::ValueError);
}

TYPED_TEST(LoraLayers, MergeAndUnloadLeavesAPlainModel) {
  std::vector<std::string> names;
  for (const auto& item : this->model_->named_modules()) {
    names.push_back(item.key());
  }
  auto peft = this->adapt();
  fill_update(peft);
  const auto adapted = this->run();
  peft.merge_and_unload(/*safe_merge=*/true);
  EXPECT_LT(this->difference(this->run(), adapted), 1e-5);
  std::vector<std::string> after;
  for (const auto& item : this->model_->named_modules()) {
    after.push_back(item.key());
  }
  EXPECT_EQ(after, names);
}

TYPED_TEST(LoraLayers, UnloadRestoresTheBaseExactly) {
  const auto base = this->run();
  auto peft = this->adapt();
  fill_update(peft);
  peft.unload();
  EXPECT_TRUE(torch::equal(this->run(), base));
}

TYPED_TEST(LoraLayers, ASafeMergeOfABrokenAdapterWritesNothing) {
  auto peft = this->adapt();
  fill_update(peft);
  const auto layers = peft.layers();
  const auto first = layers[0].second->base_weight().weight().clone();
  torch::NoGradGuard no_grad;
  layers[1].second->find_adapter("default")->lora_B->weight[0][0] = NAN;
  EXPECT_THROW(peft.merge_adapter(/*safe_merge=*/true), c10::Error);
  EXPECT_TRUE(torch::equal(layers[0].second->base_weight().weight(), first));
  EXPECT_FALSE(layers[0].second->merged());
}

TYPED_TEST(LoraLayers, SaveAndLoadIsBitExact) {
  auto peft = this->adapt(LoraConfig(4).lora_alpha(12));
  fill_update(peft);
  const auto adapted = this->run();
  const auto folder = fs::path(testing::TempDir()) / "lora_layers_adapter";
  fs::remove_all(folder);
  peft.save_pretrained(folder);
  const auto saved = peft.state_dict();
  peft.unload();
  auto loaded = PeftModel::from_pretrained(*this->model_, folder);
  for (const auto& item : loaded.state_dict()) {
    EXPECT_TRUE(torch::equal(item.value(), saved[item.key()]));
    EXPECT_FALSE(item.value().requires_grad());
  }
  EXPECT_FALSE(this->model_->is_training());
  if (TypeParam::kRepeats) {
    EXPECT_TRUE(torch::equal(this->run(), adapted));
  } else {
    EXPECT_LT(this->difference(this->run(), adapted), 1e-6);
  }
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
  auto peft = this->adapt();
  fill_update(peft);
  const auto exact = this->run();
  const auto gradients = [&](bool enabled) {
    this->model_->zero_grad();
    at::autocast::set_autocast_enabled(at::kCPU, enabled);
    const auto output = this->model_->forward(this->x_);
    at::autocast::set_autocast_enabled(at::kCPU, false);
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
  auto layer = TypeParam::make();
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
  torch::nn::Sequential sequential(TypeParam::make(), torch::nn::Tanh());
  EXPECT_NO_THROW(sequential->clone());
  auto peft = get_peft_model(*sequential, LoraConfig(2).target_modules({"0"}));
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

} // namespace
} // namespace torchlora::test
