// What changes several layers changes all of them or none, whatever fails.
#include <filesystem>

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// Memory for tensors that ends at a chosen moment.
class ScarceMemory : public c10::Allocator {
 public:
  ScarceMemory() {
    c10::SetCPUAllocator(this, kPriority);
  }
  ~ScarceMemory() override {
    c10::SetCPUAllocator(real_, kPriority);
  }
  c10::DataPtr allocate(size_t bytes) override {
    TORCH_CHECK(left-- != 0, "no memory");
    return real_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return real_->raw_deleter();
  }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    real_->copy_data(to, from, bytes);
  }
  /// How many more tensors there is memory for until one gets none; negative:
  /// there is enough.
  int64_t left = -1;

 private:
  static constexpr uint8_t kPriority = 255;
  c10::Allocator* real_ = c10::GetCPUAllocator();
};

struct NetImpl : torch::nn::Module {
  NetImpl() {
    to(at::kDouble);
  }
  Tensor forward(const Tensor& ids) {
    return c(b(a(table(ids)).tanh()).tanh());
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 6));
  nn::Linear a = register_module("a", nn::Linear(6, 6));
  nn::Linear b = register_module("b", nn::Linear(6, 6));
  torch::nn::Linear c = register_module("c", torch::nn::Linear(6, 6));
};

class AllOrNothing : public testing::Test {
 protected:
  AllOrNothing() {
    torch::manual_seed(11);
    model_ = test::make_module<NetImpl>();
    ids_ = test::randint(0, 9, {3, 4});
  }

  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  torch::OrderedDict<std::string, Tensor> values() {
    torch::OrderedDict<std::string, Tensor> result;
    for (const auto& item : model_->named_parameters()) {
      result.insert(item.key(), item.value().detach().clone());
    }
    return result;
  }
  void expect_values(const torch::OrderedDict<std::string, Tensor>& before) {
    const auto now = values();
    ASSERT_EQ(now.keys(), before.keys());
    for (const auto& item : before) {
      EXPECT_LT(difference(now[item.key()], item.value()), 1e-12) << item.key();
    }
  }
  static LoraConfig config() {
    return LoraConfig(2).target_modules({"a", "b", "c"});
  }
  /// A model with an adapter of everything.
  PeftModel adapted(const LoraConfig& config) {
    auto peft = get_peft_model(
        *model_,
        LoraConfig(config).trainable_token_indices({{"table", {1, 4}}}));
    disturb(peft);
    return peft;
  }

  /// Lets memory end in each place of `change` in turn, and looks at the model
  /// each time. Returns how often it failed.
  int64_t fail_everywhere(
      const std::function<void()>& change,
      const std::function<void()>& look) {
    ScarceMemory memory;
    for (int64_t failures = 0;; ++failures) {
      memory.left = failures;
      const auto text = refusal<c10::Error>(change);
      memory.left = -1;
      if (text.empty()) {
        return failures;
      }
      EXPECT_NE(text.find("no memory"), std::string::npos) << text;
      look();
      if (testing::Test::HasFailure()) {
        return 0;
      }
    }
  }

  std::shared_ptr<NetImpl> model_;
  Tensor ids_;
};

TEST_F(AllOrNothing, AMergeAndItsUndoing) {
  for (const bool use_dora : {false, true}) {
    auto peft = adapted(config().use_dora(use_dora));
    const auto before = values();
    const auto output = run();
    const auto is_merged = [&](bool merged) {
      for (const auto& [name, layer] : peft.layers()) {
        EXPECT_EQ(layer->merged(), merged) << name;
      }
    };
    EXPECT_GT(
        fail_everywhere(
            [&] { peft.merge_adapter(); },
            [&] {
              is_merged(false);
              expect_values(before);
              EXPECT_LT(difference(run(), output), 1e-12);
            }),
        5);
    is_merged(true);
    const auto merged = values();
    EXPECT_GT(
        fail_everywhere(
            [&] { peft.unmerge_adapter(); },
            [&] {
              is_merged(true);
              expect_values(merged);
              EXPECT_LT(difference(run(), output), 1e-12);
            }),
        5);
    is_merged(false);
    expect_values(before);
    EXPECT_GT(
        fail_everywhere(
            [&] { peft.merge_and_unload(); },
            [&] {
              is_merged(false);
              expect_values(before);
              EXPECT_EQ(peft.layers().size(), 3U);
            }),
        5);
    EXPECT_LT(difference(run(), output), 1e-12);
    EXPECT_FALSE(model_->named_parameters().contains("a.base_layer.weight"));
  }
}

TEST_F(AllOrNothing, AnInjection) {
  const auto before = values();
  const auto output = run();
  for (const auto& adapter :
       {config(),
        config().use_dora(true),
        config().init_lora_weights("pissa"),
        config().init_lora_weights("pissa").use_dora(true),
        config().init_lora_weights("loftq").loftq_config(LoftQConfig()),
        config().kasa_config(KasaConfig())}) {
    std::optional<PeftModel> peft;
    EXPECT_GT(
        fail_everywhere(
            [&] {
              peft = get_peft_model(
                  *model_,
                  LoraConfig(adapter).trainable_token_indices(
                      {{"table", {1, 4}}}));
            },
            [&] {
              expect_values(before);
              EXPECT_LT(difference(run(), output), 1e-12);
            }),
        5);
    EXPECT_EQ(peft->layers().size(), 3U);
    peft->unload();
    torch::NoGradGuard no_grad;
    for (const auto& item : model_->named_parameters()) {
      item.value().copy_(before[item.key()]);
      item.value().set_requires_grad(true);
    }
  }
}

TEST_F(AllOrNothing, AFurtherAdapter) {
  auto peft = get_peft_model(*model_, config());
  disturb(peft);
  const auto folder = std::filesystem::path(testing::TempDir()) / "further";
  peft.save_pretrained(folder);
  const auto before = values();
  const auto nothing_new = [&] {
    expect_values(before);
    EXPECT_EQ(peft.adapter_names(), std::vector<std::string>{"default"});
  };
  const auto expect = [&](const std::function<void()>& change) {
    EXPECT_GT(fail_everywhere(change, nothing_new), 5);
    peft.delete_adapter("new");
    nothing_new();
  };
  expect([&] { peft.add_adapter("new", config().use_dora(true)); });
  expect([&] { peft.load_adapter(folder, "new"); });
  expect([&] { peft.add_weighted_adapter({"default"}, {.5}, "new"); });
}

TEST_F(AllOrNothing, ASwap) {
  auto peft = get_peft_model(*model_, LoraConfig(4).target_modules({"a", "c"}));
  disturb(peft);
  const auto folder = std::filesystem::path(testing::TempDir()) / "swap";
  peft.save_pretrained(folder);
  peft.unload();
  auto other = get_peft_model(*model_, config().use_rslora(true));
  disturb(other);
  other.layers()[0].second->set_scale("default", 3);
  const auto before = values();
  const auto output = run();
  EXPECT_GT(
      fail_everywhere(
          [&] { hotswap_adapter(other, folder); },
          [&] {
            expect_values(before);
            EXPECT_LT(difference(run(), output), 1e-12);
          }),
      5);
  EXPECT_GT(difference(run(), output), 1e-3);
}

/// Weights that cannot be written to.
enum class Broken { kInference, kExpanded, kOverlapping };

class UnwritableWeight : public testing::TestWithParam<Broken> {
 protected:
  /// The layer "first" is as it should be, "second" has such a weight.
  template <class Layer>
  static std::shared_ptr<torch::nn::Module> model(Layer first) {
    auto result = std::make_shared<torch::nn::Module>("Model");
    result->register_module("first", first);
    std::optional<c10::InferenceMode> guard;
    if (GetParam() == Broken::kInference) {
      guard.emplace();
    }
    Layer second(5, 5);
    result->register_module("second", second);
    if (GetParam() == Broken::kExpanded) {
      second->weight.set_data(test::randn({1, 5}).expand({5, 5}));
    } else if (GetParam() == Broken::kOverlapping) {
      second->weight.set_data(test::randn({9}).as_strided({5, 5}, {1, 1}));
    }
    return result;
  }
};

TEST_P(UnwritableWeight, IsRefusedBeforeAnotherLayerIsMerged) {
  const auto test = [](auto first) {
    const auto net = model(first);
    const auto before = first->weight.detach().clone();
    auto peft = get_peft_model(
        *net,
        LoraConfig(2).init_lora_weights(false).target_modules(
            {"first", "second"}));
    const auto text = refusal([&] { peft.merge_adapter(); });
    EXPECT_NE(text.find("second"), std::string::npos) << text;
    EXPECT_NE(text.find("in place"), std::string::npos) << text;
    EXPECT_NE(refusal([&] { peft.merge_and_unload(); }), "");
    EXPECT_EQ(peft.layers().size(), 2U);
    peft.unload();
    EXPECT_TRUE(torch::equal(first->weight, before));
    for (const auto* name : {"pissa", "olora"}) {
      const auto at_injection = refusal(
          *net,
          LoraConfig(2).init_lora_weights(name).target_modules(
              {"first", "second"}));
      EXPECT_NE(at_injection.find("second"), std::string::npos) << at_injection;
      EXPECT_TRUE(torch::equal(first->weight, before));
    }
  };
  test(nn::Linear(5, 5));
  test(torch::nn::Linear(5, 5));
  test(torch::nn::Embedding(5, 5));
}

TEST_P(UnwritableWeight, IsRefusedBeforeATableIsMerged) {
  auto first = test::on_device(nn::Embedding(5, 5));
  const auto net = model(first);
  const auto before = first->weight.detach().clone();
  auto peft = get_peft_model(
      *net,
      LoraConfig(2).target_modules({"first"}).trainable_token_indices(
          {{"second", {1, 2}}}));
  disturb(peft);
  EXPECT_NE(refusal([&] { peft.merge_adapter(); }), "");
  peft.unload();
  EXPECT_TRUE(torch::equal(first->weight, before));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    UnwritableWeight,
    testing::Values(
        Broken::kInference,
        Broken::kExpanded,
        Broken::kOverlapping));

TEST(Unwritable, ALayerThatBecomesSoStaysMergedWithTheOthers) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  nn::Linear first(5, 5), second(5, 5);
  net->register_module("first", first);
  net->register_module("second", second);
  auto peft = get_peft_model(
      *net,
      LoraConfig(2).init_lora_weights(false).target_modules(
          {"first", "second"}));
  peft.merge_adapter();
  const auto merged = first->weight.detach().clone();
  second->weight.set_data(test::randn({1, 5}).expand({5, 5}));
  EXPECT_NE(refusal([&] { peft.unmerge_adapter(); }), "");
  EXPECT_TRUE(torch::equal(first->weight, merged));
  EXPECT_TRUE(peft.layers()[0].second->merged());
}

TEST(Unwritable, WhatCannotBeTrainedIsNoModuleToSave) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  net->register_module("layer", nn::Linear(5, 5));
  {
    const c10::InferenceMode guard;
    net->register_module("head", nn::Linear(5, 5));
  }
  const auto config = LoraConfig(2).target_modules({"layer"});
  const auto text = refusal(*net, LoraConfig(config).modules_to_save({"head"}));
  EXPECT_NE(text.find("head.weight"), std::string::npos) << text;
  EXPECT_NE(refusal(*net, LoraConfig(config).bias("all")), "");
  EXPECT_TRUE(net->named_parameters().contains("layer.weight"));
  EXPECT_NO_THROW(get_peft_model(*net, config));
}

TEST(Unwritable, AParameterThatCannotBeFrozenIsNamed) {
  auto net = std::make_shared<torch::nn::Module>("Model");
  auto layer = test::on_device(nn::Linear(5, 5));
  net->register_module("layer", layer);
  net->register_parameter("computed", layer->weight * 2);
  const auto text = refusal(*net, LoraConfig(2).target_modules({"layer"}));
  EXPECT_NE(text.find("\"computed\""), std::string::npos) << text;
  EXPECT_TRUE(net->named_parameters().contains("layer.weight"));
}

} // namespace
} // namespace torchlora
