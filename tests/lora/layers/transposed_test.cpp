// A layer type of user code whose weight is [in, out], against peft's
// transformers Conv1D (tests/reference/make_special_layer_goldens.py).
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/nn/experts.h>

#include "lora/layer_suite.h"
#include "support.h"

namespace torchlora::test {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct StackImpl : torch::nn::Module, nn::StackedExperts {
  Tensor up = register_parameter("up", test::randn({2, 3, 4}));
};

struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t in = 12, int64_t out = 10)
      : layer(register_module("layer", TransposedLinear(in, out))),
        table(register_module("table", nn::Embedding(5, 4))),
        experts(register_module("experts", test::make_module<StackImpl>())),
        head(register_module("head", nn::Linear(3, 2))) {}
  TransposedLinear layer;
  nn::Embedding table;
  std::shared_ptr<StackImpl> experts;
  nn::Linear head;
};

const io::SafetensorsFile& file() {
  static const io::SafetensorsFile file(
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "transposed.safetensors");
  return file;
}

const std::string kPrefix = "base_model.model.layer.";

class TransposedGoldens : public testing::TestWithParam<const char*>,
                          public Goldens {
 protected:
  TransposedGoldens() : Goldens("transposed.safetensors", GetParam()) {}
};

TEST_P(TransposedGoldens, ForwardGradientsAndMergeAreThoseOfPeft) {
  const std::string variant = GetParam();
  auto net = test::make_module<NetImpl>();
  auto peft = get_peft_model(
      *net,
      LoraConfig(4)
          .lora_alpha(6)
          .target_modules({"layer"})
          .use_rslora(variant == "rslora")
          .use_dora(variant == "dora")
          .lora_bias(variant == "lora_bias"));
  torch::NoGradGuard no_grad;
  net->layer->weight.copy_(golden("base.weight"));
  net->layer->bias.copy_(golden("base.bias"));
  auto tensors = peft.state_dict();
  for (auto& item : tensors) {
    item.value().copy_(golden("adapter." + item.key().substr(kPrefix.size())));
  }
  {
    torch::AutoGradMode grad(true);
    const auto output = net->layer(golden("input"));
    expect(output, "output");
    (output * golden("weight")).sum().backward();
  }
  for (auto& item : tensors) {
    expect(item.value().grad(), "grad." + item.key().substr(kPrefix.size()));
  }
  peft.merge_and_unload();
  expect(net->layer->weight, "merged.weight");
  expect(net->layer->bias, "merged.bias");
  expect(net->layer(golden("input")), "output");
}

INSTANTIATE_TEST_SUITE_P(
    All,
    TransposedGoldens,
    testing::Values("plain", "rslora", "dora", "lora_bias"));

TEST(TransposedLinear, PissaIsThatOfPeft) {
  torch::NoGradGuard no_grad;
  auto net = test::make_module<NetImpl>(24, 18);
  net->layer->weight.copy_(file().tensor("pissa/weight"));
  auto peft = get_peft_model(
      *net,
      LoraConfig(4).lora_alpha(6).target_modules({"layer"}).init_lora_weights(
          "pissa"));
  const auto* adapter = peft.layers()[0].second->find_adapter("default");
  const auto B = test::on_device(file().tensor("pissa/B"));
  const auto signs = at::sign((adapter->lora_B->weight * B).sum(0));
  EXPECT_LT(difference(adapter->lora_B->weight * signs, B), 2e-5);
  EXPECT_LT(
      difference(
          adapter->lora_A->weight * signs.unsqueeze(1),
          file().tensor("pissa/A")),
      2e-5);
  EXPECT_LT(
      difference(net->layer->weight, file().tensor("pissa/residual")), 1e-5);
}

// peft decomposes the weight as it is stored: factors of the wrong sizes unless
// it is square.
TEST(TransposedLinear, OloraIsThatOfTheTransposedWeight) {
  torch::manual_seed(2);
  torch::NoGradGuard no_grad;
  auto net = test::make_module<NetImpl>(24, 18);
  const auto weight = net->layer->weight.clone();
  auto peft = get_peft_model(
      *net,
      LoraConfig(4).lora_alpha(6).target_modules({"layer"}).init_lora_weights(
          "olora"));
  const auto* adapter = peft.layers()[0].second->find_adapter("default");
  const auto [Q, R] = at::linalg_qr(weight.t());
  EXPECT_LT(difference(adapter->lora_B->weight, Q.narrow(1, 0, 4)), 1e-5);
  EXPECT_LT(difference(adapter->lora_A->weight, R.narrow(0, 0, 4)), 1e-5);
  EXPECT_LT(
      difference(
          net->layer->weight +
              1.5 *
                  at::mm(adapter->lora_B->weight, adapter->lora_A->weight).t(),
          weight),
      1e-6);
}

TEST(TransposedLinear, AWeightedCombinationIsThatOfPeft) {
  auto net = test::make_module<NetImpl>();
  const auto config = LoraConfig(4).lora_alpha(6).target_modules({"layer"});
  auto peft = get_peft_model(*net, config, "a");
  peft.add_adapter("b", config);
  torch::NoGradGuard no_grad;
  for (const std::string name : {"a", "b"}) {
    auto tensors = peft.state_dict(name);
    for (auto& item : tensors) {
      item.value().copy_(file().tensor(
          "cat/" + name + "." + item.key().substr(kPrefix.size())));
    }
  }
  peft.add_weighted_adapter({"a", "b"}, {0.7, -0.4}, "cat", {"cat"});
  EXPECT_LT(
      difference(
          peft.layers()[0].second->get_delta_weight("cat").t(),
          file().tensor("cat/update")),
      1e-4);
}

// PEFT needs the flag; the embedding, which is [in, out] always, does not say.
TEST(TransposedLinear, TheFlagIsWrittenForPeftAndMakesNoDifferenceOnLoading) {
  const auto folder = fs::path(testing::TempDir()) / "transposed";
  const auto flag = [&](const ModuleNames& targets,
                        const std::vector<std::string>& parameters = {}) {
    auto net = test::make_module<NetImpl>();
    auto peft = get_peft_model(
        *net,
        LoraConfig(2).target_modules(targets).target_parameters(parameters));
    peft.save_pretrained(folder);
    peft.unload();
    auto loaded = PeftModel::from_pretrained(*net, folder);
    EXPECT_FALSE(loaded.layers().empty());
    const auto saved = load_adapter_config(folder);
    return saved.fan_in_fan_out();
  };
  EXPECT_TRUE(flag({"layer"}));
  EXPECT_TRUE(flag({"layer", "table"}));
  EXPECT_FALSE(flag({"layer", "head"}));
  EXPECT_FALSE(flag({"layer"}, {"experts.up"})); // which refuse it
  EXPECT_FALSE(flag({"head", "table"}));
  EXPECT_FALSE(flag({"table"}));
}

} // namespace
} // namespace torchlora::test
