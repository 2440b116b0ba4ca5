// Features that meet in one model.
#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>
#include <torchlora/tools/intruders.h>
#include <torchlora/tools/preprocess.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

/// A batch of tokens [N, T]; the attention's input has the batch second.
struct NetImpl : torch::nn::Module {
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
  nn::Linear up = register_module("up", nn::Linear(8, 8));
  nn::MultiheadAttention mha =
      register_module("mha", nn::MultiheadAttention(8, 2));
  torch::nn::BatchNorm1d norm =
      register_module("norm", torch::nn::BatchNorm1d(8));
  nn::Linear head = register_module("head", nn::Linear(8, 4));

  Tensor forward(const Tensor& ids) {
    const auto x = up(table(ids)).transpose(0, 1);
    const auto y = std::get<0>(mha(x, x, x)).transpose(0, 1);
    return head(norm(y.transpose(1, 2)).transpose(1, 2));
  }
};

class Interplay : public testing::Test {
 protected:
  Interplay() {
    model_->eval();
    base_ = run();
  }
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  void disturb(PeftModel& peft, const std::string& adapter) {
    torch::NoGradGuard no_grad;
    for (auto& item : peft.state_dict(adapter)) {
      item.value().add_(torch::randn_like(item.value()), 0.3);
    }
  }
  /// An adapter with a head of its own.
  PeftModel with_head(const std::string& name = "default") {
    auto peft =
        get_peft_model(*model_, config().modules_to_save({"head"}), name);
    disturb(peft, name);
    model_->eval();
    return peft;
  }
  LoraConfig config(std::vector<std::string> targets = {"up"}) {
    return LoraConfig(2).target_modules(std::move(targets));
  }

  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>();
  Tensor ids_ = test::randint(0, 9, {3, 5});
  Tensor base_;
  const fs::path folder_ = fs::path(testing::TempDir()) / "interplay";
};

TEST_F(Interplay, AMixedBatchDoesNotGoThroughTheActiveAdaptersHead) {
  auto peft = with_head("a");
  peft.add_adapter("b", config());
  disturb(peft, "b");
  peft.set_adapter("b");
  const auto b = run();
  peft.set_adapter("a");
  const auto a = run();
  {
    const auto guard = peft.mixed_batch({"b", "__base__", "b"});
    const auto mixed = run();
    EXPECT_LT(difference(mixed[0], b[0]), 1e-5);
    EXPECT_LT(difference(mixed[1], base_[1]), 1e-5);
  }
  EXPECT_LT(difference(run(), a), 1e-6);
  EXPECT_THROW((void)peft.mixed_batch({"a", "b", "b"}), c10::ValueError);
}

TEST_F(Interplay, AMixedBatchPassesLayersThatNoneOfItsAdaptersHas) {
  auto peft = get_peft_model(*model_, config(), "a");
  disturb(peft, "a");
  peft.add_adapter("b", config({"mha"}));
  model_->eval();
  const auto a = run();
  const auto guard = peft.mixed_batch({"a", "__base__", "a"});
  EXPECT_LT(difference(run()[2], a[2]), 1e-5);
  EXPECT_LT(difference(run()[1], base_[1]), 1e-5);
}

TEST_F(Interplay, WhatCopiesFactorsOnlyRefusesAnAdapterWithAHead) {
  auto peft = with_head();
  EXPECT_THROW(
      peft.add_weighted_adapter({"default"}, {1.0}, "new"), c10::ValueError);
  EXPECT_THROW(
      reduce_intruder_dimension(peft, "default", "new"), c10::ValueError);
  EXPECT_EQ(peft.adapter_names().size(), 1U);
}

TEST_F(Interplay, AMergeTakesTheHeadOfItsAdapter) {
  auto peft = with_head("a");
  const auto a = run();
  peft.add_adapter("b", config());
  disturb(peft, "b");
  peft.set_adapter("b");
  EXPECT_THROW(
      peft.merge_adapter(MergeOptions().adapter_names({"a"})), c10::ValueError);
  peft.set_adapter("a");
  peft.merge_and_unload();
  EXPECT_LT(difference(run(), a), 1e-5);
  EXPECT_FALSE(model_->head->weight.requires_grad());
}

TEST_F(Interplay, ABiasOfTwoAdaptersIsNotMerged) {
  auto peft = get_peft_model(*model_, config().lora_bias(true), "a");
  peft.add_adapter("b", config().bias("lora_only"));
  disturb(peft, "a");
  disturb(peft, "b");
  peft.set_adapter({"a", "b"});
  const auto both = run();
  EXPECT_THROW(peft.merge_adapter(), c10::ValueError);
  EXPECT_LT(difference(run(), both), 1e-6);
  peft.merge_and_unload();
  EXPECT_LT(difference(run(), both), 1e-5);
}

TEST_F(Interplay, AMergeThatFailsLosesNothing) {
  auto peft = with_head();
  const auto adapted = run();
  const auto keys = peft.state_dict().keys();
  {
    torch::NoGradGuard no_grad;
    auto bias =
        peft.layers()[0].second->find_adapter("default")->lora_B->weight;
    const auto value = bias[0][0].item<float>();
    bias[0][0] = NAN;
    EXPECT_THROW(
        peft.merge_and_unload(MergeOptions().safe_merge(true)),
        c10::ValueError);
    bias[0][0] = value;
  }
  EXPECT_LT(difference(run(), adapted), 1e-6);
  EXPECT_EQ(peft.state_dict().keys(), keys);
  const auto guard = peft.disable_adapter();
  EXPECT_LT(difference(run(), base_), 1e-6);
}

// Only what a merge writes to must be the base model's.
TEST_F(Interplay, AMergeMindsTheLayersItWritesTo) {
  auto peft = with_head("a");
  peft.add_adapter("b", config({"head"}));
  const auto a = run();
  peft.merge_adapter();
  EXPECT_LT(difference(run(), a), 1e-5);
  peft.unmerge_adapter();
  peft.set_adapter("b");
  disturb(peft, "b");
  EXPECT_THROW(peft.merge_adapter(), c10::ValueError);
}

TEST_F(Interplay, AnAdapterIsMadeOnTheBaseAndNotOnAnothersModule) {
  auto peft = with_head("a");
  const auto a = run();
  EXPECT_THROW(
      peft.add_adapter("b", config({"head"}).init_lora_weights("pissa")),
      c10::ValueError);
  peft.add_adapter("b", config({"head"}).use_dora(true));
  EXPECT_LT(difference(run(), a), 1e-6);
  peft.set_adapter("b");
  EXPECT_LT(difference(run(), base_), 1e-5);
}

// The initializer would write to the head too.
TEST_F(Interplay, AnInitializerDoesNotChangeATiedWeight) {
  struct TiedImpl : torch::nn::Module {
    nn::Embedding table = register_module("table", nn::Embedding(9, 8));
    nn::Linear head = register_module(
        "head",
        nn::Linear(torch::nn::LinearOptions(8, 9).bias(false)));
    TiedImpl() {
      to(test::test_device()); // a tie does not outlive a move
      head->weight.set_data(table->weight);
    }
  };
  auto model = test::make_module<TiedImpl>();
  const auto before = model->table->weight.detach().clone();
  for (const char* name : {"pissa", "olora"}) {
    EXPECT_THROW(
        get_peft_model(*model, config({"table"}).init_lora_weights(name)),
        c10::ValueError);
    EXPECT_TRUE(torch::equal(model->table->weight, before));
  }
  EXPECT_TRUE(model->named_modules().contains("table"));
  EXPECT_FALSE(model->named_modules().contains("table.base_layer"));
  // A tie by memory ends with the first change of the data.
  EXPECT_THROW(
      get_peft_model(
          *model,
          LoraConfig(2)
              .target_modules({"table"})
              .modules_to_save({"head"})
              .ensure_weight_tying(true)),
      c10::ValueError);
  EXPECT_THROW(
      get_peft_model(*model, config({"table"}).ensure_weight_tying(true)),
      c10::ValueError);
  EXPECT_NO_THROW(get_peft_model(*model, config({"table"})));
}

TEST_F(Interplay, BuffersThatAreSavedTwiceFreezeNothing) {
  auto peft = get_peft_model(
      *model_, config().modules_to_save({"norm", "head", "norm"}));
  EXPECT_TRUE(model_->head->bias.requires_grad());
  EXPECT_TRUE(model_->norm->weight.requires_grad());
  EXPECT_TRUE(peft.state_dict().contains("base_model.model.norm.running_mean"));
}

// The keys are those of the adapter alone.
TEST_F(Interplay, BiasesAreCalledAsIfNoOtherAdapterWereThere) {
  for (const char* bias : {"all", "lora_only"}) {
    auto alone = get_peft_model(*model_, config({"mha"}).bias(bias));
    const auto keys = alone.state_dict().keys();
    EXPECT_TRUE(alone.state_dict().contains(
        "base_model.model.mha.base_layer.out_proj.base_layer.bias"));
    alone.unload();
    auto peft = get_peft_model(*model_, config(), "first");
    peft.add_adapter("second", config({"mha"}).bias(bias));
    auto found = peft.state_dict("second").keys();
    const auto sorted = [](std::vector<std::string> names) {
      std::ranges::sort(names);
      return names;
    };
    EXPECT_EQ(sorted(found), sorted(keys));
    peft.unload();
  }
}

TEST_F(Interplay, BiasesOfModulesThatAreCalledLikeLayersKeepTheirNames) {
  struct NamedImpl : torch::nn::Module {
    nn::Linear up = register_module("up", nn::Linear(4, 4));
    torch::nn::Linear base =
        register_module("base_layer", torch::nn::Linear(4, 4));
    torch::nn::Linear factor =
        register_module("lora_B", torch::nn::Linear(4, 4));
  };
  auto outer = std::make_shared<torch::nn::Module>("outer");
  outer->register_module("block", test::make_module<NamedImpl>());
  auto peft = get_peft_model(*outer, config().bias("all"));
  const auto tensors = peft.state_dict();
  for (const char* key :
       {"up.base_layer.bias", "base_layer.bias", "lora_B.bias"}) {
    EXPECT_TRUE(tensors.contains(std::string("base_model.model.block.") + key))
        << key;
  }
}

// Two files may hold the same table; the second adapter has it too.
TEST_F(Interplay, ATableOfTwoFilesIsBothAdapters) {
  auto peft = get_peft_model(*model_, config({"table"}));
  disturb(peft, "default");
  fs::remove_all(folder_);
  peft.save_pretrained(folder_);
  peft.unload();
  const auto weights = folder_ / "adapter_model.safetensors";
  std::vector<std::pair<std::string, Tensor>> tensors;
  {
    const io::SafetensorsFile file(weights);
    for (const auto& key : file.keys()) {
      tensors.emplace_back(key, file.tensor(key).clone());
    }
  }
  tensors.emplace_back(
      "base_model.model.table.base_layer.weight", test::randn({9, 8}));
  io::save_safetensors(weights, tensors);
  auto loaded = PeftModel::from_pretrained(*model_, folder_, "a");
  model_->to(torch::kDouble);
  const auto a = run();
  EXPECT_THROW(loaded.merge_adapter(), c10::ValueError);
  loaded.load_adapter(folder_, "b");
  loaded.set_adapter("b");
  EXPECT_LT(difference(run(), a), 1e-6);
  loaded.set_adapter("a");
  loaded.merge_and_unload();
  EXPECT_LT(difference(run(), a), 1e-5);
}

TEST_F(Interplay, AWeightThatNoConfigurationAsksForIsUnexpected) {
  auto peft = get_peft_model(*model_, config());
  disturb(peft, "default");
  const auto adapted = run();
  fs::remove_all(folder_);
  peft.save_pretrained(folder_);
  peft.unload();
  const auto weights = folder_ / "adapter_model.safetensors";
  const io::SafetensorsFile file(weights);
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& key : file.keys()) {
    tensors.emplace_back(key, file.tensor(key).clone());
  }
  tensors.emplace_back("base_model.model.head.weight", test::randn({4, 8}));
  io::save_safetensors(weights, tensors);
  EXPECT_THROW(PeftModel::from_pretrained(*model_, folder_), DataError);
  auto loaded = PeftModel::from_pretrained(
      *model_, folder_, "default", LoadOptions().strict(false));
  EXPECT_LT(difference(run(), adapted), 1e-6);
  loaded.unload();
  tensors.erase(tensors.begin()); // lora_A: no update
  io::save_safetensors(weights, tensors);
  PeftModel::from_pretrained(
      *model_, folder_, "default", LoadOptions().strict(false));
  EXPECT_LT(difference(run(), base_), 1e-6);
}

// Files know one rank for an attention and its out_proj.
TEST_F(Interplay, EvaOfAnAttentionSavesAndLoads) {
  auto peft = get_peft_model(
      *model_,
      config({"up", "mha", "head"})
          .init_lora_weights("eva")
          .rank_pattern({{"up", 4}})
          .eva_config(EvaConfig().rho(2).tau(0.5)));
  initialize_lora_eva_weights(peft, [&] {
    run();
    return true;
  });
  disturb(peft, "default");
  const auto adapted = run();
  fs::remove_all(folder_);
  peft.save_pretrained(folder_);
  EXPECT_NO_THROW(peft.add_adapter("like", peft.peft_config()));
  EXPECT_EQ(
      peft.state_dict("like").keys().size(), peft.state_dict().keys().size());
  peft.unload();
  PeftModel::from_pretrained(*model_, folder_);
  EXPECT_LT(difference(run(), adapted), 1e-6);
}

} // namespace
} // namespace torchlora
