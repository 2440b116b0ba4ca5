// Weights and tensors of files that are no floating-point or complex numbers.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct TwoLayers : torch::nn::Module {
  explicit TwoLayers(std::shared_ptr<torch::nn::Module> layer) {
    register_module("first", nn::Linear(4, 4));
    register_module("second", std::move(layer));
  }
  void cast_weight(at::ScalarType dtype) {
    auto weight = named_parameters()["second.weight"];
    weight.set_requires_grad(false);
    weight.set_data(weight.detach().mul(50).to(dtype));
  }
};

TEST(Dtypes, WeightsThatAreNoNumbersToTrainAreRefusedByName) {
  for (const auto dtype :
       {at::kChar,
        at::kByte,
        at::kShort,
        at::kInt,
        at::kLong,
        at::kFloat8_e4m3fn,
        at::kFloat8_e5m2}) {
    std::vector<std::shared_ptr<torch::nn::Module>> layers{
        nn::Linear(4, 4).ptr(),
        nn::Conv1d(4, 4, 1).ptr(),
        nn::Embedding(4, 4).ptr()};
    if (has_weight_overlay()) {
      layers.push_back(torch::nn::Linear(4, 4).ptr());
      layers.push_back(torch::nn::Embedding(4, 4).ptr());
    }
    for (const auto& layer : layers) {
      const auto model = test::make_module<TwoLayers>(layer);
      model->cast_weight(dtype);
      for (const auto& config :
           {LoraConfig(2), LoraConfig(2).init_lora_weights("pissa")}) {
        const auto said = refusal(
            *model, LoraConfig(config).target_modules({"first", "second"}));
        EXPECT_NE(said.find("module second"), std::string::npos) << said;
        EXPECT_NE(said.find(c10::toString(dtype)), std::string::npos) << said;
      }
      for (const auto& item : model->named_parameters()) {
        EXPECT_EQ(item.key().find("lora_"), std::string::npos);
      }
    }
  }
}

TEST(Dtypes, SavedModulesAndTokenRowsAreRefusedByName) {
  const auto model = test::make_module<TwoLayers>(nn::Linear(4, 4).ptr());
  model->cast_weight(at::kChar);
  const auto said = refusal(
      *model,
      LoraConfig(2).target_modules({"first"}).modules_to_save({"second"}));
  EXPECT_NE(said.find("second.weight"), std::string::npos) << said;
  EXPECT_NE(said.find("Char"), std::string::npos) << said;

  const auto tokens = test::make_module<TwoLayers>(nn::Embedding(4, 4).ptr());
  tokens->cast_weight(at::kChar);
  const auto rows = refusal(
      *tokens,
      LoraConfig(2).target_modules({"first"}).trainable_token_indices(
          TrainableTokenIndices{{"second", {1}}}));
  EXPECT_NE(rows.find("second"), std::string::npos) << rows;
  EXPECT_NE(rows.find("Char"), std::string::npos) << rows;
}

TEST(Dtypes, IntegersInAnAdapterFileAreNoFactors) {
  const auto model = test::make_module<TwoLayers>(nn::Linear(4, 4).ptr());
  auto peft =
      get_peft_model(*model, LoraConfig(2).target_modules({"first", "second"}));
  const auto folder = fs::path(testing::TempDir()) / "integer_adapter";
  peft.save_pretrained(folder);
  const auto file = folder / "adapter_model.safetensors";
  NamedTensors tensors;
  for (const auto& item : peft.state_dict()) {
    tensors.emplace_back(
        item.key(),
        item.key().find("second.lora_A") == std::string::npos
            ? item.value()
            : item.value().mul(100).to(torch::kInt));
  }
  io::save_safetensors(file, tensors);
  const auto hotswap =
      refusal<DataError>([&] { hotswap_adapter(peft, folder, "default"); });
  peft.unload();
  const auto load =
      refusal<DataError>([&] { PeftModel::from_pretrained(*model, folder); });
  for (const auto& said : {hotswap, load}) {
    EXPECT_NE(said.find("second.lora_A.weight is Int"), std::string::npos)
        << said;
  }
}

} // namespace
} // namespace torchlora
