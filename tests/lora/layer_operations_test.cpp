// What a model does with adapters of its layers, of every type.
#include <filesystem>
#include <map>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "lora/layers_fixture.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

template <class Type>
class LayerOperations : public LoraLayers<Type> {};
TYPED_TEST_SUITE(LayerOperations, LayerTypes);

TYPED_TEST(LayerOperations, DisablingNestsAndSurvivesExceptions) {
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
TYPED_TEST(LayerOperations, NamesOfAdaptersComeInBracesOrAlone) {
  auto peft = this->adapt();
  peft.add_adapter("other", this->target(LoraConfig(2), {"target"}));
  peft.set_adapter({"default", "other"});
  EXPECT_EQ(peft.active_adapters().size(), 2U);
  peft.set_adapter({"other"});
  peft.set_adapter("other");
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"other"});
}

TYPED_TEST(LayerOperations, TwoActiveAdaptersAddUpAndMergeTogether) {
  auto peft = this->adapt();
  fill_update(peft);
  peft.add_adapter("second", this->target(LoraConfig(2)));
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

TYPED_TEST(LayerOperations, ANameThatIsGivenTwiceCountsOnce) {
  auto peft = this->adapt();
  fill_update(peft);
  const auto adapted = this->run();
  peft.set_adapter({"default", "default"});
  EXPECT_LT(this->difference(this->run(), adapted), 1e-6);
  peft.merge_adapter(MergeOptions().adapter_names({"default", "default"}));
  EXPECT_LT(this->difference(this->run(), adapted), 1e-5);
}

TYPED_TEST(LayerOperations, AMixedBatchIsEachElementThroughItsAdapter) {
  auto peft = this->adapt();
  fill_update(peft);
  // One that only a part of the layers has.
  peft.add_adapter("second", this->target(LoraConfig(2), {"target"}));
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

TYPED_TEST(LayerOperations, MergeAndUnloadLeavesAPlainModel) {
  std::vector<std::string> names;
  for (const auto& item : this->model_->named_modules()) {
    names.push_back(item.key());
  }
  auto peft = this->adapt();
  fill_update(peft);
  const auto adapted = this->run();
  peft.merge_and_unload(MergeOptions().safe_merge(true));
  EXPECT_LT(this->difference(this->run(), adapted), 1e-5);
  std::vector<std::string> after;
  for (const auto& item : this->model_->named_modules()) {
    after.push_back(item.key());
  }
  EXPECT_EQ(after, names);
}

TYPED_TEST(LayerOperations, MergeAndUnloadTakesNames) {
  auto peft = this->adapt();
  fill_update(peft);
  peft.add_adapter("second", this->target(LoraConfig(2)));
  fill_update(peft, "second");
  peft.set_adapter("second");
  const auto second = this->run();
  peft.set_adapter("default");
  EXPECT_THROW(
      peft.merge_and_unload(MergeOptions().adapter_names({"none"})),
      c10::ValueError);
  peft.merge_and_unload(MergeOptions().adapter_names({"second"}));
  EXPECT_LT(this->difference(this->run(), second), 1e-5);
}

TYPED_TEST(LayerOperations, AMergeIntoATiedWeightIsRefused) {
  auto peft = this->adapt();
  const auto layers = peft.layers();
  const auto& target = layers[0].second;
  const auto& other = layers[layers.size() / 2].second;
  other->base_weight().weight().set_data(
      target->base_weight().weight().detach());
  fill_update(peft);
  const auto adapted = this->run();
  EXPECT_THROW(peft.merge_adapter(), c10::ValueError);
  EXPECT_TRUE(torch::equal(this->run(), adapted));
}

TYPED_TEST(LayerOperations, UnloadRestoresTheBaseExactly) {
  const auto base = this->run();
  auto peft = this->adapt();
  fill_update(peft);
  peft.unload();
  EXPECT_TRUE(torch::equal(this->run(), base));
}

TYPED_TEST(LayerOperations, ASafeMergeOfABrokenAdapterWritesNothing) {
  auto peft = this->adapt();
  fill_update(peft);
  const auto layers = peft.layers();
  const auto first = layers[0].second->base_weight().weight().clone();
  torch::NoGradGuard no_grad;
  layers[1].second->find_adapter("default")->lora_B->weight[0][0] = NAN;
  EXPECT_THROW(peft.merge_adapter(MergeOptions().safe_merge(true)), c10::Error);
  EXPECT_TRUE(torch::equal(layers[0].second->base_weight().weight(), first));
  EXPECT_FALSE(layers[0].second->merged());
}

TYPED_TEST(LayerOperations, SaveAndLoadIsBitExact) {
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
  if (TypeParam::kRepeats && test_device().is_cpu()) {
    EXPECT_TRUE(torch::equal(this->run(), adapted));
  } else {
    EXPECT_LT(this->difference(this->run(), adapted), this->rounding());
  }
}

} // namespace
} // namespace torchlora::test
