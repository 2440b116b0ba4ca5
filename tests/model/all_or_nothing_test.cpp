// What changes several layers changes all of them or none, whatever fails.
#include <filesystem>

#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/tools/preprocess.h>

#include "lora/undo.h"
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
    const bool ends = left == 0;
    left -= ends && stays_short ? 0 : 1;
    TORCH_CHECK(!ends, "no memory");
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
  /// Whether the ones after that get none either.
  bool stays_short = false;

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
  void give_back(const torch::OrderedDict<std::string, Tensor>& before) {
    torch::NoGradGuard no_grad;
    for (const auto& item : model_->named_parameters()) {
      item.value().copy_(before[item.key()]);
      item.value().set_requires_grad(true);
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
      const std::function<void()>& look,
      bool stays_short = false) {
    const Warnings warnings; // of what could not be given back
    ScarceMemory memory;
    memory.stays_short = stays_short;
    for (int64_t failures = 0;; ++failures) {
      memory.left = failures;
      const auto text = refusal<c10::Error>(change);
      memory.left = -1;
      if (text.empty()) {
        return failures;
      }
      EXPECT_NE(text.find("no memory"), std::string::npos) << text;
      EXPECT_EQ(warnings.text.find("given back"), std::string::npos)
          << warnings.text;
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
    // What pissa takes out of the base is put back by a product.
    const bool adds_back = adapter.init_lora_weights().is_name() &&
        adapter.init_lora_weights().name() == "pissa";
    for (const bool stays_short : {false, true}) {
      if (stays_short && adds_back) {
        continue;
      }
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
              },
              stays_short),
          5);
      EXPECT_EQ(peft->layers().size(), 3U);
      peft->unload();
      give_back(before);
    }
  }
}

// The file's factors are not those that were taken out of the base.
TEST_F(AllOrNothing, ALoadOfAnAdapterThatChangesTheBase) {
  const auto before = values();
  const auto folder = std::filesystem::path(testing::TempDir()) / "changes";
  auto peft = adapted(config().init_lora_weights("pissa"));
  const auto output = run();
  peft.save_pretrained(folder);
  peft.unload();
  give_back(before);
  EXPECT_GT(
      fail_everywhere(
          [&] { PeftModel::from_pretrained(*model_, folder); },
          [&] { expect_values(before); }),
      5);
  EXPECT_LT(difference(run(), output), 1e-6);
}

TEST_F(AllOrNothing, AFurtherAdapter) {
  auto peft = adapted(config());
  const auto folder = std::filesystem::path(testing::TempDir()) / "further";
  peft.save_pretrained(folder);
  const auto expect = [&](const std::function<void()>& change) {
    const auto before = values();
    const auto output = run();
    const auto nothing_new = [&] {
      expect_values(before);
      EXPECT_LT(difference(run(), output), 1e-12);
      EXPECT_EQ(peft.adapter_names(), std::vector<std::string>{"default"});
    };
    for (const bool stays_short : {false, true}) {
      EXPECT_GT(fail_everywhere(change, nothing_new, stays_short), 5);
      peft.delete_adapter("new");
      nothing_new();
    }
  };
  expect([&] { peft.add_adapter("new", config().use_dora(true)); });
  expect([&] { peft.add_adapter("new", config().bias("all")); });
  expect([&] {
    peft.add_adapter(
        "new", config().trainable_token_indices({{"table", {4, 2}}}));
  });
  expect([&] { peft.load_adapter(folder, "new"); });
  peft.unload();
  peft = get_peft_model(*model_, config());
  disturb(peft);
  expect([&] { peft.add_weighted_adapter({"default"}, {.5}, "new"); });
}

TEST_F(AllOrNothing, ASwap) {
  const auto folder = std::filesystem::path(testing::TempDir()) / "swap";
  for (const bool use_dora : {false, true}) {
    auto peft = get_peft_model(
        *model_, LoraConfig(4).use_dora(use_dora).target_modules({"a", "c"}));
    disturb(peft);
    peft.save_pretrained(folder);
    peft.unload();
    for (const bool stays_short : {false, true}) {
      auto other =
          get_peft_model(*model_, config().use_dora(use_dora).use_rslora(true));
      disturb(other);
      other.layers()[0].second->set_scale("default", 3);
      const auto before = values();
      const auto output = run();
      const auto trained = other.trainable_parameters();
      EXPECT_GT(
          fail_everywhere(
              [&] { hotswap_adapter(other, folder); },
              [&] {
                expect_values(before);
                EXPECT_LT(difference(run(), output), 1e-12);
                const auto now = other.trainable_parameters();
                for (size_t i = 0; i < trained.size(); ++i) {
                  EXPECT_TRUE(now[i].is_same(trained[i]));
                }
              },
              stays_short),
          5);
      EXPECT_GT(difference(run(), output), 1e-3);
      other.unload();
    }
  }
}

TEST_F(AllOrNothing, TheFactorsOfEva) {
  if (!test::test_device().is_cpu()) {
    GTEST_SKIP() << "the CPU's memory is what gets scarce";
  }
  auto peft = get_peft_model(*model_, config().init_lora_weights("eva"));
  const auto before = values();
  ScarceMemory memory;
  memory.stays_short = true;
  const Warnings warnings; // of components that have not converged
  std::string text;
  int64_t failures = 0;
  do {
    int64_t batches = 0;
    text = refusal<c10::Error>([&] {
      initialize_lora_eva_weights(peft, [&] {
        if (batches++ == 1) {
          memory.left = failures;
          return false;
        }
        run();
        return true;
      });
    });
    memory.left = -1;
    if (!text.empty()) {
      EXPECT_NE(text.find("no memory"), std::string::npos) << text;
      expect_values(before);
      ++failures;
    }
  } while (!text.empty() && !testing::Test::HasFailure());
  EXPECT_GT(failures, 5);
}

struct ThrowingHandler : c10::WarningHandler {
  void process(const c10::Warning& /*warning*/) override {
    throw std::runtime_error("a warning");
  }
  c10::WarningUtils::WarningHandlerGuard guard{this};
};

TEST(UndoSteps, RunWhateverFails) {
  std::string done;
  const auto run = [&] {
    all_or_nothing([&](Undo& undo) {
      undo.add("module a", [&] { done += "a"; });
      undo.add("module b", [] { throw std::runtime_error("no memory"); });
      undo.add("module c", [&] { done += "c"; });
      throw std::runtime_error("the first error");
    });
  };
  {
    const Warnings warnings;
    EXPECT_THROW(run(), std::runtime_error);
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring,
        "module b could not be given back what it had: no memory",
        warnings.text);
  }
  const ThrowingHandler handler;
  EXPECT_THROW(run(), std::runtime_error);
  EXPECT_EQ(done, "caca");
}

} // namespace
} // namespace torchlora
