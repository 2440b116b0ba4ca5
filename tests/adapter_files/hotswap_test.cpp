#include <torchlora/adapter_files/hotswap.h>

#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/lora/layer.h>
#include <torchlora/nn/linear.h>

#include "lora/layer_suite.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

template <class Type>
class Hotswap : public LayerSuite<Type> {
 protected:
  Hotswap() : LayerSuite<Type>(5) {}
  /// Saves a disturbed adapter of another model; its output on `x_`.
  Tensor save_other(const LoraConfig& config) {
    auto peft = get_peft_model(*this->model_, config);
    disturb(peft);
    fs::remove_all(folder_);
    peft.save_pretrained(folder_);
    auto output = this->run();
    peft.unload();
    return output;
  }
  LoraConfig config(int64_t r) {
    return LoraConfig(r).lora_alpha(6).target_modules({"target", "other"});
  }
  const fs::path folder_ = fs::path(testing::TempDir()) / "hotswap";
};
TYPED_TEST_SUITE(Hotswap, MatrixLayerTypes);

TYPED_TEST(Hotswap, TheAdapterIsTheOtherOneAndStaysWhatItWas) {
  for (const bool dora : {false, true}) {
    if (dora && !TypeParam::kHasDora) {
      continue;
    }
    const auto expected = this->save_other(this->config(4).use_dora(dora));
    auto peft = get_peft_model(*this->model_, this->config(4).use_dora(dora));
    const auto before = peft.trainable_parameters();
    hotswap_adapter(peft, this->folder_);
    EXPECT_LT(this->difference(this->run(), expected), this->rounding());
    const auto after = peft.trainable_parameters();
    ASSERT_EQ(after.size(), before.size());
    for (size_t i = 0; i < after.size(); ++i) {
      EXPECT_TRUE(after[i].is_same(before[i]));
    }
    peft.unload();
  }
}

// In peft r stays the old one, and rsLoRA and patterns are refused.
TYPED_TEST(Hotswap, RankScalingAndConfigurationAreTheOthers) {
  const auto expected = this->save_other(this->config(2)
                                             .use_rslora(true)
                                             .rank_pattern({{"other", 3}})
                                             .alpha_pattern({{"target", 5}}));
  auto peft = get_peft_model(*this->model_, this->config(4));
  peft.add_adapter("second", this->config(2));
  hotswap_adapter(peft, this->folder_);
  EXPECT_LT(this->difference(this->run(), expected), this->rounding());
  for (const auto& [name, layer] : peft.layers()) {
    const auto* adapter = layer->find_adapter("default");
    EXPECT_EQ(adapter->r, name.starts_with("block") ? 3 : 2) << name;
    EXPECT_TRUE(adapter->lora_A->weight.requires_grad());
  }
  // What it has is not the file's memory.
  fs::resize_file(this->folder_ / "adapter_model.safetensors", 0);
  EXPECT_LT(this->difference(this->run(), expected), this->rounding());
  EXPECT_EQ(peft.peft_config().r(), 2);
  const auto again = fs::path(testing::TempDir()) / "hotswap_again";
  peft.save_pretrained(again, {"default"});
  peft.unload();
  PeftModel::from_pretrained(*this->model_, again);
  EXPECT_LT(this->difference(this->run(), expected), this->rounding());
}

TYPED_TEST(Hotswap, ALayerThatTheOtherLacksGetsNoUpdate) {
  for (const bool dora : {false, true}) {
    if (dora && !TypeParam::kHasDora) {
      continue;
    }
    const auto expected = this->save_other(
        LoraConfig(2).use_dora(dora).target_modules({"target"}));
    auto peft = get_peft_model(
        *this->model_, this->config(4).use_dora(dora).init_lora_weights(false));
    hotswap_adapter(peft, this->folder_);
    EXPECT_LT(this->difference(this->run(), expected), 1e-5);
    for (const auto& [name, layer] : peft.layers()) {
      EXPECT_EQ(layer->find_adapter("default")->r, 2) << name;
    }
    peft.unload();
  }
}

TYPED_TEST(Hotswap, WhatDoesNotFitIsRefusedAndNothingChanges) {
  this->save_other(this->config(2));
  const auto refuses = [&](PeftModel& peft) {
    const auto before = this->run();
    EXPECT_THROW(hotswap_adapter(peft, this->folder_), c10::ValueError);
    EXPECT_TRUE(torch::equal(this->run(), before));
  };
  std::vector<LoraConfig> others{
      this->config(4).init_lora_weights("olora"),
      this->config(4).target_modules({"target"})};
  if (TypeParam::kHasDora) {
    others.push_back(this->config(4).use_dora(true));
  }
  others.push_back(this->config(4).lora_dropout(0.1));
  for (const auto& other : others) {
    auto peft = get_peft_model(*this->model_, other);
    this->model_->eval();
    refuses(peft);
    peft.unload();
  }
  for (const char* name : {"OLoRA", "pissa"}) {
    this->save_other(this->config(2).init_lora_weights(name));
    auto plain = get_peft_model(*this->model_, this->config(2));
    refuses(plain);
    plain.unload();
  }
  this->save_other(this->config(2));
  auto peft = get_peft_model(*this->model_, this->config(2));
  peft.merge_adapter();
  refuses(peft);
  EXPECT_THROW(hotswap_adapter(peft, this->folder_, "second"), c10::ValueError);
}

TEST(HotswapOfABadFile, IsAnErrorOfTheFile) {
  const auto folder = fs::path(testing::TempDir()) / "hotswap_bad";
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("layer", nn::Linear(4, 4));
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"layer"}));
  peft.save_pretrained(folder);
  auto config =
      nlohmann::json::parse(std::ifstream(folder / "adapter_config.json"));
  config["target_modules"] = {"layre"};
  std::ofstream(folder / "adapter_config.json") << config;
  const auto said = refusal<DataError>([&] { hotswap_adapter(peft, folder); });
  EXPECT_TRUE(said.starts_with(
      "[hotswap_adapter] " + (folder / "adapter_config.json").string() +
      " does not fit this model: Target modules {'layre'} not found"))
      << said;
  config["target_modules"] = {"layer"};
  config["r"] = 3;
  std::ofstream(folder / "adapter_config.json") << config;
  const auto start = [](const std::string& text) {
    return text.substr(0, text.find(' '));
  };
  EXPECT_EQ(
      start(refusal<DataError>([&] { hotswap_adapter(peft, folder); })),
      "[hotswap_adapter]");
  EXPECT_EQ(
      start(refusal<DataError>([&] { peft.load_adapter(folder, "new"); })),
      "[load_adapter]");
  peft.unload();
  EXPECT_EQ(
      start(refusal<DataError>(
          [&] { PeftModel::from_pretrained(*model, folder); })),
      "[from_pretrained]");
}

} // namespace
} // namespace torchlora::test
