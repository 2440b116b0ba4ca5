#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct NetImpl : torch::nn::Module {
  nn::Embedding table = register_module("table", nn::Embedding(20, 8));
  nn::Linear up = register_module("up", nn::Linear(12, 10));
};

/// The two adapters of the goldens (tests/reference/make_layer_goldens.py).
class WeightedAdapter : public testing::Test {
 protected:
  WeightedAdapter() {
    load("a");
    load("b");
    peft_.set_adapter("a");
  }
  void load(const std::string& name) {
    const std::string prefix = "base_model.model.";
    torch::NoGradGuard no_grad;
    if (name != "a") {
      peft_.add_adapter(name, config(name));
    }
    auto tensors = peft_.state_dict(name);
    for (auto& item : tensors) {
      item.value().copy_(file_.tensor(
          "adapters/" + name + "." + item.key().substr(prefix.size())));
    }
  }
  static LoraConfig config(const std::string& name) {
    return LoraConfig(4)
        .lora_alpha(name == "a" ? 6 : 3)
        .target_modules({"table", "up"});
  }
  Tensor update(const std::string& name, size_t layer) {
    torch::NoGradGuard no_grad;
    return peft_.layers()[layer].second->get_delta_weight(name);
  }
  std::string refusal(
      const std::vector<std::string>& adapters,
      const CombinationOptions& options,
      const std::vector<double>& weights = {1, 1}) {
    return torchlora::refusal(
        [&] { peft_.add_weighted_adapter(adapters, weights, "new", options); });
  }

  io::SafetensorsFile file_{
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "combinations.safetensors"};
  std::shared_ptr<NetImpl> net_ = test::make_module<NetImpl>();
  PeftModel peft_ = get_peft_model(*net_, config("a"), "a");
};

TEST_F(WeightedAdapter, EveryCombinationIsThatOfPeft) {
  for (const std::string type :
       {"cat",
        "svd",
        "linear",
        "magnitude_prune",
        "ties",
        "dare_linear",
        "dare_ties",
        "magnitude_prune_svd",
        "ties_svd",
        "dare_linear_svd",
        "dare_ties_svd"}) {
    torch::manual_seed(9);
    peft_.add_weighted_adapter(
        {"a", "b"}, {0.7, -0.4}, type, CombinationOptions(type).density(0.6));
    for (size_t i = 0; i < 2; ++i) {
      auto expected =
          test::on_device(file_.tensor(type + (i == 0 ? "/table" : "/up")));
      expected = i == 0 ? expected.t() : expected;
      EXPECT_LT(
          ((update(type, i) - expected).norm() / expected.norm())
              .item<double>(),
          1e-5)
          << type << " " << i;
    }
  }
  EXPECT_EQ(peft_.active_adapters(), std::vector<std::string>{"a"});
}

// Where peft is wrong: it keeps use_rslora and scales the result again.
TEST_F(WeightedAdapter, IsRightForRsLoraRanksThatDifferAndBiases) {
  peft_.add_adapter(
      "rs", LoraConfig(9).use_rslora(true).target_modules({"table", "up"}));
  peft_.add_adapter("up", LoraConfig(3).target_modules({"up"}));
  peft_.add_adapter(
      "bias",
      LoraConfig(2).lora_bias(true).init_lora_weights(false).target_modules(
          {"up"}));
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft_.layers()) {
    for (const char* adapter : {"rs", "up"}) {
      if (const auto* found = layer->find_adapter(adapter)) {
        found->lora_A->weight.normal_();
        found->lora_B->weight.normal_();
      }
    }
  }
  const auto layer = peft_.layers()[1].second;
  const auto* bias = layer->find_adapter("bias");
  for (const std::string type : {"cat", "svd"}) {
    const auto options = CombinationOptions(type).svd_rank(20);
    peft_.add_weighted_adapter({"a", "rs", "up"}, {1, -2, 1}, type, options);
    for (size_t i = 0; i < 2; ++i) {
      auto expected = update("a", i) - 2 * update("rs", i);
      expected = i == 1 ? expected + update("up", 1) : expected;
      EXPECT_LT((update(type, i) - expected).abs().max().item<double>(), 1e-4)
          << type;
    }
    peft_.add_weighted_adapter({"up", "bias"}, {1, 0.5}, type + "2", options);
    EXPECT_LT(
        (update(type + "2", 1) - update("up", 1) - 0.5 * update("bias", 1))
            .abs()
            .max()
            .item<double>(),
        2e-5);
    EXPECT_TRUE(at::allclose(
        layer->find_adapter(type + "2")->lora_B->bias,
        bias->lora_B->bias * (0.5 * bias->scaling)));
  }
}

TEST_F(WeightedAdapter, OfOneAdapterItIsThatAdapter) {
  peft_.add_weighted_adapter({"b"}, {1}, "same");
  EXPECT_LT(
      (update("same", 1) - update("b", 1)).abs().max().item<double>(), 1e-5);
}

TEST_F(WeightedAdapter, SavesLoadsAndRuns) {
  peft_.add_weighted_adapter({"a", "b"}, {0.5, 0.5}, "mean", {"cat"});
  peft_.set_adapter("mean");
  torch::NoGradGuard no_grad;
  const auto x = test::randn({3, 12});
  const auto output = net_->up(x);
  const auto folder = fs::path(testing::TempDir()) / "weighted";
  peft_.save_pretrained(folder, {"mean"});
  peft_.unload();
  PeftModel::from_pretrained(*net_, folder / "mean");
  EXPECT_TRUE(torch::equal(net_->up(x), output));
}

TEST_F(WeightedAdapter, RefusesWhatItCannotCombine) {
  EXPECT_NE(refusal({"a", "c"}, {}).find("Adapter c"), std::string::npos);
  EXPECT_NE(refusal({"a"}, {}).find("one weight"), std::string::npos);
  EXPECT_NE(refusal({"a", "b"}, {"sum"}).find("cat, svd"), std::string::npos);
  EXPECT_NE(refusal({"a", "b"}, {"ties"}).find("density"), std::string::npos);
  for (const double density : {-0.5, 0.0, 1.5}) { // peft warns of 1.5
    const auto text =
        refusal({"a", "b"}, CombinationOptions("ties").density(density));
    EXPECT_NE(
        text.find(c10::str("in (0, 1], found ", density)), std::string::npos)
        << text;
  }
  peft_.add_adapter("r2", LoraConfig(2).target_modules({"up"}));
  EXPECT_NE(
      refusal({"a", "r2"}, {"linear"}).find("same r value"), std::string::npos);
  peft_.add_adapter(
      "dora", LoraConfig(4).use_dora(true).target_modules({"up"}));
  EXPECT_NE(refusal({"a", "dora"}, {}).find("DoRA"), std::string::npos);
  EXPECT_EQ(
      peft_.adapter_names(),
      (std::vector<std::string>{"a", "b", "r2", "dora"}));
  peft_.unload();
  peft_ = get_peft_model(
      *net_,
      LoraConfig(4).init_lora_weights("pissa").target_modules({"up"}),
      "pissa");
  EXPECT_THROW(
      peft_.add_weighted_adapter({"pissa"}, {1.0}, "new"), c10::ValueError);
}

} // namespace
} // namespace torchlora
