#include <torchlora/model/status.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"

namespace torchlora {
namespace {

using Names = std::vector<std::string>;

struct NetImpl : torch::nn::Module {
  nn::Embedding table = register_module("table", nn::Embedding(9, 4));
  nn::Linear up = register_module("up", nn::Linear(4, 4));
};

class Status : public testing::Test {
 protected:
  Status() {
    peft_.add_adapter("second", LoraConfig(3).target_modules({"up"}));
  }
  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>();
  PeftModel peft_ =
      get_peft_model(*model_, LoraConfig(2).target_modules({"table", "up"}));
};

TEST_F(Status, OfEachLayer) {
  const auto layers = get_layer_status(peft_);
  ASSERT_EQ(layers.size(), 2U);
  EXPECT_EQ(layers[0].name, "table");
  EXPECT_EQ(layers[0].module_type, "torchlora::LoraEmbedding");
  EXPECT_EQ(layers[0].available_adapters, Names{"default"});
  EXPECT_EQ(layers[1].module_type, "torchlora::LoraLinear");
  EXPECT_EQ(layers[1].available_adapters, (Names{"default", "second"}));
  EXPECT_EQ(layers[1].active_adapters, Names{"default"});
  EXPECT_TRUE(layers[1].merged_adapters.empty());
  EXPECT_EQ(layers[1].requires_grad.at("default"), Consistency::kTrue);
  EXPECT_EQ(layers[1].requires_grad.at("second"), Consistency::kFalse);
  EXPECT_EQ(
      layers[1].devices.at("second"),
      Names{c10::DeviceTypeName(test::test_device().type(), true)});
}

TEST_F(Status, OfTheModel) {
  const auto status = get_model_status(peft_);
  EXPECT_EQ(status.num_adapter_layers, 2);
  EXPECT_EQ(status.trainable_params, 2 * (9 + 4) + 2 * (4 + 4));
  EXPECT_EQ(status.total_params, 9 * 4 + 20 + 26 + 16 + 24);
  EXPECT_EQ(status.peft_types.at("second"), "LORA");
  EXPECT_EQ(status.enabled, Consistency::kTrue);
  EXPECT_EQ(status.active_adapters, Names{"default"});
  EXPECT_EQ(status.merged_adapters, Names());
  EXPECT_EQ(status.available_adapters, (Names{"default", "second"}));
}

// "table" does not have the second one, and is no irregularity for it.
TEST_F(Status, LayersThatLackAnAdapterAreRegular) {
  peft_.set_adapter({"default", "second"});
  EXPECT_EQ(
      get_model_status(peft_).active_adapters, (Names{"default", "second"}));
  peft_.merge_adapter(MergeOptions().adapter_names({"second"}));
  EXPECT_EQ(get_model_status(peft_).merged_adapters, Names{"second"});
}

TEST_F(Status, IrregularitiesAreTold) {
  const auto layers = peft_.layers();
  layers[1].second->find_adapter("default")->lora_A->weight.set_requires_grad(
      false);
  auto status = get_model_status(peft_);
  EXPECT_EQ(
      get_layer_status(peft_)[1].requires_grad.at("default"),
      Consistency::kIrregular);
  EXPECT_EQ(status.requires_grad.at("default"), Consistency::kIrregular);
  EXPECT_EQ(status.requires_grad.at("second"), Consistency::kFalse);
  layers[0].second->merge();
  layers[1].second->set_adapter({"second"});
  layers[0].second->enable_adapters(false);
  status = get_model_status(peft_);
  EXPECT_EQ(status.merged_adapters, std::nullopt);
  EXPECT_EQ(status.active_adapters, std::nullopt);
  EXPECT_EQ(status.enabled, Consistency::kIrregular);
  EXPECT_EQ(status.requires_grad.at("default"), Consistency::kIrregular);
}

TEST_F(Status, AModelWithoutLayersIsAnError) {
  peft_.unload();
  EXPECT_THROW(get_layer_status(*model_), c10::ValueError);
}

} // namespace
} // namespace torchlora
