#include <atomic>
#include <thread>

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/init/initializer.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

using init::Arguments;
using init::Factors;
using init::register_initializer;

struct HolderImpl : torch::nn::Module {
  nn::Linear layer = register_module("layer", nn::Linear(6, 5));
};

void ones(Factors& factors, const Arguments& /*arguments*/) {
  factors.A = at::ones_like(factors.A);
  factors.B = at::zeros_like(factors.B);
}

/// Once per process, as tests may be repeated in it.
void register_all() {
  static const bool done = [] {
    register_initializer("test_ones", ones);
    register_initializer(
        "test_bias",
        [](Factors& factors, const Arguments& /*arguments*/) {
          factors.bias.fill_(3);
        },
        {.trains_B = false,
         .supports_lora_bias = true,
         .supports_velora = false});
    register_initializer(
        "test_replaces", [](Factors& factors, const Arguments& arguments) {
          factors.base_weight = at::zeros_like(arguments.base_weight);
        });
    return true;
  }();
  static_cast<void>(done);
}

LoraConfig config(const char* name) {
  register_all();
  return LoraConfig(2).target_modules({"layer"}).init_lora_weights(name);
}

TEST(RegisteredInitializers, WorkByName) {
  auto model = test::make_module<HolderImpl>();
  const auto peft = get_peft_model(*model, config("test_ones"));
  const auto layer = peft.layers().at(0).second;
  const auto* adapter = layer->find_adapter("default");
  EXPECT_TRUE(torch::equal(adapter->lora_A->weight, test::ones({2, 6})));
  EXPECT_TRUE(torch::equal(adapter->lora_B->weight, test::zeros({5, 2})));
  EXPECT_TRUE(adapter->lora_B->weight.requires_grad());
  EXPECT_EQ(peft.peft_config().init_lora_weights().name(), "test_ones");
  EXPECT_TRUE(init::is_unknown_to_peft("test_ones"));
  EXPECT_FALSE(init::is_unknown_to_peft("pissa"));
  EXPECT_FALSE(init::is_unknown_to_peft(true));
}

TEST(RegisteredInitializers, TheirTraitsCount) {
  auto model = test::make_module<HolderImpl>();
  const auto peft = get_peft_model(*model, config("test_bias").lora_bias(true));
  const auto* adapter = peft.layers().at(0).second->find_adapter("default");
  EXPECT_TRUE(torch::equal(adapter->lora_B->bias, test::full({5}, 3.0F)));
  EXPECT_FALSE(adapter->lora_B->weight.requires_grad());

  auto other = test::make_module<HolderImpl>();
  const auto before = other->layer->weight.clone();
  for (const auto& bad :
       {config("test_ones").lora_bias(true),
        config("test_bias").velora_config(VeloraConfig(2)),
        config("test_replaces")}) {
    EXPECT_THROW(get_peft_model(*other, bad), c10::ValueError);
  }
  EXPECT_TRUE(torch::equal(other->layer->weight, before));
  EXPECT_NE(
      refusal([&] {
        get_peft_model(*other, config("test_replaces"));
      }).find("modifies_base"),
      std::string::npos);
}

TEST(RegisteredInitializers, ANameIsTakenOnce) {
  register_all();
  for (const char* name :
       {"", "test_ones", "pissa", "Gaussian", "pissa_niter_7", "corda"}) {
    EXPECT_THROW(register_initializer(name, ones), c10::ValueError) << name;
  }
}

TEST(RegisteredInitializers, AnUnknownNameListsThem) {
  auto model = test::make_module<HolderImpl>();
  const auto text =
      refusal([&] { get_peft_model(*model, config("test_other")); });
  EXPECT_NE(text.find("\"test_other\""), std::string::npos) << text;
  EXPECT_NE(text.find("\"test_ones\""), std::string::npos) << text;
  EXPECT_NE(text.find("register_initializer"), std::string::npos) << text;
}

TEST(RegisteredInitializers, MayComeFromSeveralThreads) {
  static std::atomic<int> round = 0;
  const int now = round++;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([now, i] {
      for (int k = 0; k < 50; ++k) {
        const auto name = fmt::format("test_thread_{}_{}_{}", now, i, k);
        register_initializer(name, ones);
        EXPECT_EQ(init::find_initializer(name).name, name);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
}

} // namespace
} // namespace torchlora
