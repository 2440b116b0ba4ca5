#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// A user's layer, its weight stored [in, out]: y = x W + b.
struct TransposedImpl : torch::nn::Module, nn::Redirectable {
  TransposedImpl(int64_t in, int64_t out)
      : weight(register_parameter("weight", test::randn({in, out}) * 0.3)),
        bias(register_parameter("bias", test::randn({out}))) {}
  Tensor forward(const Tensor& x) {
    return redirected_forward(x);
  }
  Tensor base_forward(const Tensor& x) override {
    return torch::addmm(bias, x, weight);
  }
  Tensor weight, bias;
};

struct NetImpl : torch::nn::Module {
  NetImpl() {
    first = register_module("first", nn::Linear(6, 5));
    custom = register_module("custom", test::make_module<TransposedImpl>(5, 4));
    plain = register_module("plain", torch::nn::Linear(4, 4));
    norm = register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({4})));
    last = register_module("last", nn::Linear(4, 4));
  }
  Tensor forward(const Tensor& x) {
    return last(plain(norm(custom->forward(first(x).tanh()))).tanh());
  }
  nn::Linear first{nullptr}, last{nullptr};
  std::shared_ptr<TransposedImpl> custom;
  torch::nn::Linear plain{nullptr};
  torch::nn::LayerNorm norm{nullptr};
};

void fill(PeftModel& peft, const std::string& adapter) {
  torch::NoGradGuard no_grad;
  for (auto& [name, layer] : peft.layers()) {
    layer->find_adapter(adapter)->lora_B->weight.normal_(0, 0.1);
  }
}

std::vector<std::string> module_names(const torch::nn::Module& model) {
  std::vector<std::string> names;
  for (const auto& item : model.named_modules()) {
    names.push_back(item.key());
  }
  return names;
}

class Injection : public testing::Test {
 protected:
  Injection() {
    torch::manual_seed(5);
    model_ = test::make_module<NetImpl>();
    x_ = test::randn({7, 6});
  }
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(x_);
  }
  std::shared_ptr<NetImpl> model_;
  Tensor x_;
};

// A module of a type that nobody registered comes after one that could be
// adapted.
TEST_F(Injection, AnErrorLeavesTheModelAsItWas) {
  const auto names = module_names(*model_);
  const auto before = run();
  const auto text = refusal([&] {
    get_peft_model(*model_, LoraConfig(2).target_modules({"first", "norm"}));
  });
  EXPECT_NE(text.find("\"norm\""), std::string::npos) << text;
  EXPECT_NE(text.find("LayerNorm"), std::string::npos) << text;
  EXPECT_NE(text.find("torch::nn::Linear"), std::string::npos) << text;
  EXPECT_NE(text.find("BaseWeight::member"), std::string::npos) << text;
  EXPECT_EQ(module_names(*model_), names);
  EXPECT_TRUE(torch::equal(run(), before));
  for (const auto& parameter : model_->parameters()) {
    EXPECT_TRUE(parameter.requires_grad());
  }
}

TEST_F(Injection, ATargetThatIsAParameterIsSaidToBeOne) {
  for (const auto* name : {"bare", "block.bare"}) {
    auto block = std::make_shared<torch::nn::Module>("Block");
    block->register_parameter("bare", test::ones({3, 3}));
    auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("block", block);
    const auto text = refusal(
        [&] { get_peft_model(*model, LoraConfig(2).target_modules({name})); });
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring, "a parameter, \"block.bare\"", text);
  }
}

TEST_F(Injection, AnAdaptedModelOffersItsOwnNames) {
  auto peft =
      get_peft_model(*model_, LoraConfig(2).target_modules({"first", "plain"}));
  for (const auto& [target, near] :
       {std::pair("base_layers", ""), {"defaults", ""}, {"frist", "first"}}) {
    const auto text = refusal([&] {
      peft.add_adapter("new", LoraConfig(2).target_modules({target}));
    });
    EXPECT_TRUE(text.starts_with("[add_adapter] ")) << text;
    EXPECT_NE(text.find("can be adapted are: first, "), std::string::npos)
        << text;
    EXPECT_EQ(text.find("'default'?"), std::string::npos) << text;
    EXPECT_EQ(text.find("'base_layer'?"), std::string::npos) << text;
    EXPECT_EQ(text.find("?") != std::string::npos, *near != 0) << text;
    EXPECT_NE(text.find(near), std::string::npos) << text;
  }
  for (const char* name : {"default", "base_layer"}) {
    const auto text = refusal([&] {
      peft.add_adapter(
          "new",
          LoraConfig(2).target_modules({"last"}).modules_to_save({name}));
    });
    EXPECT_TRUE(text.starts_with("[add_adapter] ")) << text;
    EXPECT_NE(text.find(name), std::string::npos) << text;
  }
}

TEST_F(Injection, AnAddedAdapterThatFailsLeavesTheOthersAlone) {
  auto peft = get_peft_model(*model_, LoraConfig(2).target_modules({"first"}));
  fill(peft, "default");
  const auto before = run();
  EXPECT_THROW(
      peft.add_adapter(
          "second", LoraConfig(2).target_modules({"first", "norm"})),
      c10::ValueError);
  EXPECT_EQ(peft.adapter_names(), std::vector<std::string>{"default"});
  EXPECT_EQ(peft.layers()[0].second->adapters().size(), 1U);
  EXPECT_TRUE(torch::equal(run(), before));
}

TEST_F(Injection, AUsersLayerTypeNeedsAnAccessorOnly) {
  LoraRegistry::global().add<TransposedImpl, LoraLinear>(
      "Transposed", [](TransposedImpl& layer) {
        return BaseWeight(layer.weight, layer.bias, "", WeightLayout::kInOut);
      });
  const auto base = run();
  auto peft = get_peft_model(*model_, LoraConfig(2).target_modules({"custom"}));
  EXPECT_LT((run() - base).abs().max().item<double>(), 1e-6);
  fill(peft, "default");
  const auto adapted = run();
  EXPECT_GT((adapted - base).abs().max().item<double>(), 1e-3);
  peft.merge_and_unload();
  EXPECT_LT((run() - adapted).abs().max().item<double>(), 1e-5);
  EXPECT_EQ(model_->custom->weight.sizes(), (at::IntArrayRef{5, 4}));
}

TEST_F(Injection, UnloadingMergesWhatIsActiveAndNotMergedYet) {
  const LoraConfig config = LoraConfig(2).target_modules({"first", "last"});
  auto peft = get_peft_model(*model_, config);
  peft.add_adapter("second", config);
  fill(peft, "default");
  fill(peft, "second");
  peft.set_adapter(std::vector<std::string>{"default", "second"});
  const auto both = run();
  peft.merge_adapter(MergeOptions().adapter_names({"default"}));
  peft.merge_and_unload();
  EXPECT_LT((run() - both).abs().max().item<double>(), 1e-5);
}

TEST_F(Injection, ATiedWeightIsNotMerged) {
  model_->plain->weight = model_->last->weight;
  auto peft = get_peft_model(*model_, LoraConfig(2).target_modules({"last"}));
  const auto weight = model_->last->weight.clone();
  const auto text = refusal([&] { peft.merge_adapter(); });
  EXPECT_NE(text.find("\"last\""), std::string::npos) << text;
  EXPECT_NE(text.find("\"plain.weight\""), std::string::npos) << text;
  EXPECT_TRUE(torch::equal(model_->last->weight, weight));
}

// One layer under two names is one weight, whichever name reaches it.
TEST_F(Injection, ALayerUnderTwoNamesMerges) {
  model_->register_module("alias", model_->last.ptr());
  auto peft = get_peft_model(*model_, LoraConfig(2).target_modules({"last"}));
  fill(peft, "default");
  const auto adapted = run();
  peft.add_adapter("second", LoraConfig(2).target_modules({"last", "alias"}));
  EXPECT_EQ(peft.layers().size(), 1U);
  EXPECT_TRUE(torch::equal(run(), adapted));
  peft.merge_and_unload();
  EXPECT_LT((run() - adapted).abs().max().item<double>(), 1e-5);
}

} // namespace
} // namespace torchlora
