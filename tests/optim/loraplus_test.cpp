#include <torchlora/optim/loraplus.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/optim/weight_decay.h>

#include "device/device.h"
#include "optim/golden_net.h"

namespace torchlora::test {
namespace {

const LoraPlusOptions kOptions =
    LoraPlusOptions(4).loraplus_weight_decay(0.1).loraplus_lr_embedding(0.03);

LoraConfig config() {
  return LoraConfig(4).lora_alpha(6).target_modules({"table", "up", "down"});
}

TEST(LoraPlus, AdamWOnDoraTrainsAsPeftDoes) {
  GoldenRun run("loraplus_adamw", config().use_dora(true));
  run.train_and_compare(*create_loraplus_optimizer<torch::optim::AdamW>(
      *run.model,
      torch::optim::AdamWOptions(0.02).betas({0.8, 0.9}),
      kOptions));
}

TEST(LoraPlus, AdamTrainsAsPeftDoes) {
  GoldenRun run("loraplus_adam", config());
  run.train_and_compare(*create_loraplus_optimizer<torch::optim::Adam>(
      *run.model, torch::optim::AdamOptions(0.02), kOptions));
}

// The optimizer's own decay is nobody's, not even of those without decay.
TEST(LoraPlus, SgdOnLoraBiasTrainsAsPeftDoes) {
  GoldenRun run(
      "loraplus_sgd", config().target_modules({"up", "down"}).lora_bias(true));
  run.train_and_compare(*create_loraplus_optimizer<torch::optim::SGD>(
      *run.model,
      torch::optim::SGDOptions(0.05).momentum(0.5).weight_decay(0.7),
      kOptions));
}

// In peft the bias and the norm learn as fast as B.
TEST(LoraPlus, WhatIsTrainedAsAWholeLearnsAtThePlainRate) {
  auto model = test::make_module<GoldenNetImpl>();
  auto peft = get_peft_model(
      *model, LoraConfig(2).target_modules({"table", "up"}).use_dora(true));
  for (const auto& parameter : model->parameters()) {
    parameter.set_requires_grad(true);
  }
  const auto groups = loraplus_param_groups(*model, 0.5, kOptions);
  const auto place = [&](const at::Tensor& tensor) {
    for (const auto& group : groups) {
      for (const auto& parameter : group.params) {
        if (parameter.is_same(tensor)) {
          return std::pair{group.lr, group.weight_decay};
        }
      }
    }
    return std::pair{-1., -1.};
  };
  using Place = std::pair<double, double>;
  EXPECT_EQ(place(model->norm->weight), Place(0.5, 0));
  EXPECT_EQ(place(model->norm->bias), Place(0.5, 0));
  EXPECT_EQ(place(model->down->weight), Place(0.5, 0.1));
  EXPECT_EQ(place(model->down->bias), Place(0.5, 0));
  const auto layers = peft.layers();
  const auto* table = layers[0].second->find_adapter("default");
  const auto* up = layers[1].second->find_adapter("default");
  EXPECT_EQ(place(table->lora_A->weight), Place(0.03, 0.1));
  EXPECT_EQ(place(table->lora_B->weight), Place(0.03, 0.1));
  EXPECT_EQ(
      place(table->variant_tensor("lora_magnitude_vector")), Place(2, 0.1));
  EXPECT_EQ(place(up->lora_A->weight), Place(0.5, 0.1));
  EXPECT_EQ(place(up->lora_B->weight), Place(2, 0.1));
  EXPECT_EQ(place(up->variant_tensor("lora_magnitude_vector")), Place(2, 0.1));
  size_t count = 0;
  for (const auto& group : groups) {
    count += group.params.size();
  }
  EXPECT_EQ(count, model->parameters().size());
}

TEST(LoraPlus, TakesTheActiveAdapterOnly) {
  auto model = test::make_module<GoldenNetImpl>();
  auto peft = get_peft_model(*model, config());
  peft.add_adapter("other", config().target_modules({"up"}));
  peft.set_adapter("other");
  const auto groups = loraplus_param_groups(*model, 0.5, kOptions);
  ASSERT_EQ(groups.size(), 2U);
  const auto* other = peft.layers()[1].second->find_adapter("other");
  EXPECT_TRUE(groups[0].params.at(0).is_same(other->lora_A->weight));
  EXPECT_TRUE(groups[1].params.at(0).is_same(other->lora_B->weight));
}

TEST(LoraPlus, RefusesWhatCannotTrain) {
  auto model = test::make_module<GoldenNetImpl>();
  EXPECT_THROW(loraplus_param_groups(*model, 1, kOptions), c10::ValueError);
  auto peft = get_peft_model(*model, config());
  for (const auto& options :
       {LoraPlusOptions(0),
        LoraPlusOptions(std::nan("")),
        LoraPlusOptions(2).loraplus_weight_decay(-1),
        LoraPlusOptions(2).loraplus_lr_embedding(-1)}) {
    EXPECT_THROW(loraplus_param_groups(*model, 1, options), c10::ValueError);
  }
}

TEST(WeightDecay, LeavesOutBiasesAndNorms) {
  for (const auto* name :
       {"q_proj.lora_A.default.weight", "normal.weight", "embed.weight"}) {
    EXPECT_TRUE(has_weight_decay(name)) << name;
  }
  for (const auto* name :
       {"q_proj.bias",
        "layers.0.input_layernorm.weight",
        "model.norm.weight",
        "q_norm.weight",
        "norm",
        "RMSNorm.weight"}) {
    EXPECT_FALSE(has_weight_decay(name)) << name;
  }
}

} // namespace
} // namespace torchlora::test
