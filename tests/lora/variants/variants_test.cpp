// What the goldens of one adapter a layer do not show.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/detail/dropout.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "lora/layer_suite.h"
#include "lora/overlay/overlay_fixture.h"
#include "support.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

/// Every layer type with DoRA.
template <class Type>
class Variants : public LayerSuite<Type> {
 protected:
  Variants() : LayerSuite<Type>(11) {}
  PeftModel adapt(LoraConfig config) {
    auto peft = LayerSuite<Type>::adapt(std::move(config));
    fill(peft);
    return peft;
  }
};
TYPED_TEST_SUITE(Variants, MatrixLayerTypes);

// Each DoRA norm is of the unmerged base, also while others are merged.
TYPED_TEST(Variants, SeveralDoraAndPlainAdaptersMergeAsTheyRun) {
  if (!TypeParam::kHasDora) {
    EXPECT_THROW(this->adapt(LoraConfig(3).use_dora(true)), c10::ValueError);
    return;
  }
  const auto base = this->run();
  auto peft = this->adapt(LoraConfig(3).use_dora(true));
  peft.add_adapter("plain", LoraConfig(2).target_modules({"target", "other"}));
  peft.add_adapter(
      "second",
      LoraConfig(2).use_dora(true).target_modules({"target", "other"}));
  fill(peft, "plain");
  fill(peft, "second");
  peft.set_adapter({"default", "plain", "second"});
  const auto unmerged = this->run();
  EXPECT_GT(difference(unmerged, base), 1e-3);
  peft.merge_adapter(
      MergeOptions().safe_merge(true).adapter_names({"default"}));
  peft.merge_adapter();
  EXPECT_LT(difference(this->run(), unmerged), 2e-5);
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(this->run(), base), 1e-4); // divides by the scales
  }
  peft.unmerge_adapter();
  EXPECT_LT(difference(this->run(), unmerged), 2e-5);
  peft.merge_and_unload();
  EXPECT_LT(difference(this->run(), unmerged), 2e-5);
}

TYPED_TEST(Variants, DoraAndBiasSurviveSaveAndLoad) {
  const auto folder = fs::path(testing::TempDir()) / "variants_adapter";
  const bool has_bias =
      this->model_->target->named_parameters().contains("bias");
  for (const bool dora : {true, false}) {
    if (dora ? !TypeParam::kHasDora : !has_bias) {
      continue;
    }
    if (!dora && !TypeParam::kHasLoraBias) {
      EXPECT_THROW(this->adapt(LoraConfig(3).lora_bias(true)), c10::ValueError);
      continue;
    }
    auto peft = this->adapt(LoraConfig(3).use_dora(dora).lora_bias(!dora));
    const auto adapted = this->run();
    peft.save_pretrained(folder);
    peft.unload();
    auto loaded = PeftModel::from_pretrained(*this->model_, folder);
    EXPECT_LE(
        this->difference(this->run(), adapted),
        test_device().is_cpu() ? 0 : this->rounding());
    EXPECT_EQ(loaded.peft_config().use_dora(), dora);
    EXPECT_EQ(loaded.peft_config().lora_bias(), !dora);
    loaded.unload();
  }
}

// After training, on the original base: raw the decomposition is repeated,
// converted it is a plain LoRA of twice the rank.
TYPED_TEST(Variants, AnAdapterThatChangedTheBaseLoadsOntoTheOriginal) {
  const auto folder = fs::path(testing::TempDir()) / "variants_residual";
  std::vector<Tensor> weights;
  for (const auto& parameter : this->model_->parameters()) {
    weights.push_back(parameter.detach().clone());
  }
  const auto restore = [&] {
    torch::NoGradGuard no_grad;
    auto next = weights.begin();
    for (auto& parameter : this->model_->parameters()) {
      parameter.copy_(*next++);
    }
  };
  for (const char* name : {"olora", "pissa", "pissa_niter_4"}) {
    for (const bool rslora : {false, true}) {
      restore();
      auto peft = get_peft_model(
          *this->model_,
          LoraConfig(4)
              .target_modules({"target", "other"})
              .rank_pattern({{"other", 2}})
              .alpha_pattern({{"target", 6}})
              .use_dora(!rslora && TypeParam::kHasDora)
              .use_rslora(rslora)
              .init_lora_weights(name));
      peft.save_pretrained(folder / "initial");
      fill(peft);
      const auto trained = this->run();
      peft.save_pretrained(folder / "raw");
      peft.save_pretrained(folder / "plain", {}, folder / "initial");
      peft.unload();
      restore();
      auto plain = PeftModel::from_pretrained(*this->model_, folder / "plain");
      EXPECT_LT(difference(this->run(), trained), 5e-5) << name;
      EXPECT_EQ(plain.peft_config().r(), 8);
      plain.unload();
      restore();
      if (std::string(name) == "pissa_niter_4") {
        EXPECT_THROW(
            PeftModel::from_pretrained(*this->model_, folder / "raw"),
            c10::Error);
        continue;
      }
      auto raw = PeftModel::from_pretrained(*this->model_, folder / "raw");
      EXPECT_LT(difference(this->run(), trained), 5e-5) << name;
      raw.unload();
    }
  }
}

TEST(Dora, WithDropoutTheBaseProductSeesTheDroppedInputToo) {
  struct HolderImpl : torch::nn::Module {
    nn::Linear layer = register_module("layer", nn::Linear(7, 5));
  };
  torch::manual_seed(0);
  auto model = test::make_module<HolderImpl>();
  auto peft = get_peft_model(
      *model,
      LoraConfig(2).use_dora(true).lora_dropout(0.5).target_modules({"layer"}));
  const auto layer = peft.layers()[0].second;
  const auto* adapter = layer->find_adapter("default");
  torch::NoGradGuard no_grad;
  adapter->lora_B->weight.normal_();
  adapter->variant_tensor("lora_magnitude_vector").add_(0.3);
  const auto x = test::randn({4, 7});
  torch::manual_seed(1);
  const auto output = model->layer(x);
  torch::manual_seed(1);
  const auto dropped = detail::dropout(x, 0.5);
  const auto W = layer->base_weight().weight();
  const auto delta = layer->get_delta_weight("default");
  const auto c = adapter->variant_tensor("lora_magnitude_vector") /
      (W + delta).norm(2, {1});
  const auto expected = at::linear(x, W, layer->base_weight().bias()) +
      (c - 1) * at::linear(dropped, W) + c * at::linear(dropped, delta);
  EXPECT_LT(difference(output, expected), 1e-5);
}

TEST(LoraBias, WithoutABiasOfTheBaseItIsNotMerged) {
  auto model = test::make_module<PairImpl<ClippableLinearType>>();
  auto peft = get_peft_model(
      *model, LoraConfig(2).lora_bias(true).target_modules({"target"}));
  const auto weight = peft.layers()[0].second->base_weight().weight().clone();
  EXPECT_THROW(peft.merge_adapter(), c10::ValueError);
  EXPECT_TRUE(
      torch::equal(peft.layers()[0].second->base_weight().weight(), weight));
}

TEST(LoraBias, GoesWithPlainInitializersOnly) {
  auto model = test::make_module<PairImpl<LinearType>>();
  const auto config = LoraConfig(2).lora_bias(true).target_modules({"target"});
  for (auto bad :
       {LoraConfig(config).init_lora_weights("gaussian"),
        LoraConfig(config).use_dora(true)}) {
    EXPECT_THROW(get_peft_model(*model, bad), c10::ValueError);
  }
  auto table = test::make_module<PairImpl<EmbeddingType>>();
  EXPECT_THROW(get_peft_model(*table, config), c10::ValueError);
}

// peft holds W and A to the norm one by one, which no merge can.
TEST(LoraEmbedding, TheAdaptedRowIsHeldToTheNorm) {
  struct HolderImpl : torch::nn::Module {
    nn::Embedding table = register_module(
        "table",
        nn::Embedding(torch::nn::EmbeddingOptions(9, 6).max_norm(1.5)));
  };
  torch::manual_seed(2);
  auto model = test::make_module<HolderImpl>();
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
  torch::NoGradGuard no_grad;
  peft.layers()[0].second->find_adapter("default")->lora_A->weight.normal_();
  const auto indices = test::arange(9);
  const auto rows = model->table(indices);
  EXPECT_LT(rows.norm(2, -1).max().item<double>(), 1.5 + 1e-5);
  peft.merge_and_unload();
  EXPECT_LT(difference(model->table(indices), rows), 1e-5);
}

template <class Table>
void merge_with_max_norm() {
  struct HolderImpl : torch::nn::Module {
    Table table = register_module(
        "table",
        Table(torch::nn::EmbeddingOptions(9, 6).max_norm(1.5)));
  };
  auto model = test::make_module<HolderImpl>();
  torch::NoGradGuard no_grad;
  model->table->weight.mul_(4);
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
  fill(peft);
  const auto weight = peft.layers()[0].second->base_weight().weight().clone();
  const auto rows = model->table(test::arange(9)).clone();
  peft.merge_adapter();
  EXPECT_LT(difference(model->table(test::arange(9)), rows), 1e-5);
  peft.unmerge_adapter();
  EXPECT_LT(
      difference(peft.layers()[0].second->base_weight().weight(), weight),
      1e-5);
}

// The merged table must not be held to the norm in place.
TEST(MaxNorm, AMergeOfAnEmbeddingComesOffAgain) {
  torch::manual_seed(4);
  merge_with_max_norm<nn::Embedding>();
  if (has_weight_overlay()) {
    merge_with_max_norm<torch::nn::Embedding>();
  }
}

} // namespace
} // namespace torchlora::test
