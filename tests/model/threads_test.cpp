// What docs/threads.md says may be called from several threads.
#include <atomic>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// Layers of both bindings.
struct NetImpl : torch::nn::Module {
  Tensor forward(const Tensor& ids) {
    return head(plain(own(table(ids)).tanh()).tanh());
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
  nn::Linear own = register_module("own", nn::Linear(8, 8));
  torch::nn::Linear plain = register_module("plain", torch::nn::Linear(8, 8));
  torch::nn::Linear head = register_module("head", torch::nn::Linear(8, 4));
};

class Threads : public testing::Test {
 protected:
  Threads() {
    torch::manual_seed(7);
    model_ = test::make_module<NetImpl>();
    ids_ = test::randint(0, 9, {3, 5});
  }
  static LoraConfig config() {
    return LoraConfig(2).target_modules({"table", "own", "plain"});
  }
  PeftModel adapted() {
    auto peft = get_peft_model(*model_, config(), "a");
    peft.add_adapter("b", config());
    randomize(peft, "a");
    randomize(peft, "b");
    model_->eval();
    return peft;
  }
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  /// Runs `work` in several threads at once, `kRounds` times in each. Returns
  /// how often it was false.
  static int64_t failures(const std::vector<std::function<bool()>>& work) {
    std::atomic<int64_t> result = 0;
    std::vector<std::thread> threads;
    for (const auto& item : work) {
      threads.emplace_back([&] {
        for (int i = 0; i < kRounds; ++i) {
          try {
            result += !item();
          } catch (const std::exception&) {
            ++result;
          }
        }
      });
    }
    for (auto& thread : threads) {
      thread.join();
    }
    return result;
  }

  static constexpr int kRounds = 300;
  std::shared_ptr<NetImpl> model_;
  Tensor ids_;
};

TEST_F(Threads, EachServesItsOwnMixedBatch) {
  auto peft = adapted();
  using Names = std::vector<std::string>;
  const std::vector<Names> batches{
      {"a", "b", "__base__"}, {"b", "b", "a"}, {"__base__", "a", "a"}};
  std::vector<std::function<bool()>> work;
  for (const auto& names : batches) {
    Tensor expected;
    {
      const auto guard = peft.mixed_batch(names);
      expected = run();
    }
    work.emplace_back([&, names, expected] {
      const auto guard = peft.mixed_batch(names);
      return torch::equal(run(), expected);
    });
  }
  const auto active = run();
  work.emplace_back([&, active] { return torch::equal(run(), active); });
  EXPECT_EQ(failures(work), 0);
  EXPECT_TRUE(torch::equal(run(), active));
}

TEST_F(Threads, TheInnerOfNestedMixedBatchesCounts) {
  auto peft = adapted();
  const auto outer = peft.mixed_batch({"a", "b", "__base__"});
  const auto before = run();
  {
    const auto inner = peft.mixed_batch({"b", "b", "b"});
    EXPECT_GT(difference(run(), before), 1e-3);
  }
  EXPECT_TRUE(torch::equal(run(), before));
}

// An adapter that one thread switches off would be off for the other, and each
// guard would restore what the other one had set.
TEST_F(Threads, GuardsThatWouldDisturbEachOtherAreRefused) {
  auto peft = adapted();
  const auto elsewhere = [&](const std::function<void()>& run) {
    std::string text;
    std::thread([&] { text = refusal<c10::Error>(run); }).join();
    return text;
  };
  const auto disable = [&] { const auto guard = peft.disable_adapter(); };
  const auto mix = [&] {
    const auto guard = peft.mixed_batch({"a", "b", "a"});
  };
  {
    const auto guard = peft.disable_adapter();
    EXPECT_NE(elsewhere(disable).find("another thread"), std::string::npos);
    EXPECT_NE(elsewhere(mix), "");
    EXPECT_NO_THROW(disable());
    EXPECT_NE(elsewhere([&] { peft.add_adapter("c", config()); }), "");
  }
  {
    const auto guard = peft.mixed_batch({"a", "b", "a"});
    EXPECT_NE(elsewhere(disable), "");
    EXPECT_EQ(elsewhere(mix), "");
  }
  EXPECT_EQ(elsewhere(disable), "");
  peft.add_adapter("saved", config().modules_to_save({"head"}));
  peft.set_adapter("saved");
  model_->eval();
  const auto guard = peft.mixed_batch({"a", "b", "a"}); // "head" is the base's
  EXPECT_NE(elsewhere(mix), "");
}

TEST_F(Threads, ForwardsAndBackwardsOfOneModel) {
  auto peft = get_peft_model(*model_, config());
  randomize(peft);
  const auto gradients = [&] {
    const auto output = model_->forward(ids_);
    return torch::autograd::grad(
        {output.square().sum()}, peft.trainable_parameters());
  };
  const auto expected = gradients();
  const auto work = [&] {
    const auto found = gradients();
    for (size_t i = 0; i < found.size(); ++i) {
      if (!torch::equal(found[i], expected[i])) {
        return false;
      }
    }
    return true;
  };
  EXPECT_EQ(failures({work, work}), 0);
}

TEST_F(Threads, ModelsOfTheirOwn) {
  const auto work = [&] {
    const auto model = test::make_module<NetImpl>();
    const auto base = model->forward(ids_);
    auto peft = get_peft_model(*model, config());
    torch::optim::SGD optimizer(peft.trainable_parameters(), 0.1);
    model->forward(ids_).square().mean().backward();
    optimizer.step();
    torch::NoGradGuard no_grad;
    model->eval();
    const auto trained = model->forward(ids_);
    bool is_right = false;
    {
      const auto guard = peft.disable_adapter();
      is_right = torch::allclose(model->forward(ids_), base);
    }
    peft.merge_and_unload();
    return is_right &&
        torch::allclose(model->forward(ids_), trained, 1e-4, 1e-5);
  };
  EXPECT_EQ(failures({work, work}), 0);
}

TEST_F(Threads, TheRegistry) {
  struct OtherImpl : torch::nn::Module {
    Tensor weight = register_parameter("weight", test::randn({2, 2}));
  };
  const auto add = [] {
    LoraRegistry::global().add<OtherImpl, LoraLinear>(
        "Other",
        [](OtherImpl& m) { return BaseWeight(m.weight).member(m.weight); });
    return true;
  };
  const auto find = [] {
    auto layer = test::on_device(nn::Linear(2, 2));
    return LoraRegistry::global().find(*layer)->name == "torch::nn::Linear";
  };
  EXPECT_EQ(
      failures(
          {find, [&, count = 0]() mutable { return count++ >= 20 || add(); }}),
      0);
}

} // namespace
} // namespace torchlora
