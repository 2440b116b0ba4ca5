// What trainable_token_indices refuses, by name.
#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/tools/intruders.h>

#include "model/tokens_net.h"
#include "support.h"

namespace torchlora {
namespace {

TEST_F(Tokens, BadIndicesAndNamesAreRefusedByName) {
  auto model = make();
  const auto said = [&](const TrainableTokenIndices& indices) {
    const auto message =
        refusal([&] { get_peft_model(*model, config(indices)); });
    EXPECT_EQ(model->named_parameters().size(), 4U);
    EXPECT_TRUE(model->up->weight.requires_grad());
    return message;
  };
  EXPECT_NE(said({1, 12}).find("below 12, found 12"), std::string::npos);
  EXPECT_NE(said({-1, 3}).find("found -1"), std::string::npos);
  EXPECT_NE(said({3, 1, 3}).find("index 3"), std::string::npos);
  EXPECT_NE(
      said(TrainableTokenIndices::Indices()).find("no indices"),
      std::string::npos);
  EXPECT_NE(said({{"nothing", {1}}}).find("{'nothing'}"), std::string::npos);
  EXPECT_NE(said({{"tokens", {1}}}).find("{'tokens'}"), std::string::npos);
  EXPECT_NE(said({{"up", {1}}}).find("adapted by LoRA"), std::string::npos);
  const auto peft =
      get_peft_model(*model, config(TrainableTokenIndices::ByModule()));
  EXPECT_EQ(peft.trainable_parameters().size(), 2U);
}

TEST_F(Tokens, ALayerIsChangedInOneWay) {
  const auto refused = [&](const LoraConfig& config) {
    auto model = make(TiedBy::kMemory);
    EXPECT_THROW(get_peft_model(*model, config), c10::ValueError);
    EXPECT_EQ(model->embed_tokens->named_children().size(), 0U);
  };
  const TrainableTokenIndices tokens{{"embed_tokens", {1}}};
  refused(config(tokens).target_modules({"up", "embed_tokens"}));
  refused(config(tokens).target_modules({"up", "lm_head"})); // tied
  refused(config(tokens)
              .modules_to_save({"embed_tokens"})
              .ensure_weight_tying(true));
  refused(config({{"lm_head", {1}}})); // the table is to be named
  refused(config({{"lm_head", {1}}, {"embed_tokens", {1, 2}}}));

  auto model = make(TiedBy::kMemory);
  auto peft = get_peft_model(*model, config(tokens));
  for (const auto& name : {"embed_tokens", "lm_head"}) {
    EXPECT_THROW(
        peft.add_adapter("second", LoraConfig(2).target_modules({name})),
        c10::ValueError);
    EXPECT_THROW(
        peft.add_adapter(
            "second",
            LoraConfig(2)
                .target_modules({"up"})
                .modules_to_save({name})
                .ensure_weight_tying(true)),
        c10::ValueError);
  }
  for (const auto& name : {"embed_tokens", "lm_head"}) {
    auto other = make();
    auto adapted = get_peft_model(
        *other,
        std::string(name) == "lm_head"
            ? LoraConfig(2).target_modules({name})
            : LoraConfig(2).target_modules({"up"}).modules_to_save({name}));
    EXPECT_THROW(
        adapted.add_adapter("second", config({{name, {1}}})), c10::ValueError);
  }
}

TEST_F(Tokens, WhatCannotFollowIsRefused) {
  struct RawImpl : torch::nn::Module {
    nn::Embedding table = register_module("embed_tokens", nn::Embedding(12, 6));
    nn::Linear up = register_module("up", nn::Linear(6, 6));
    torch::nn::Linear head = register_module("head", torch::nn::Linear(6, 12));
    RawImpl() {
      head->weight = table->weight;
    }
  };
  auto model = test::make_module<RawImpl>();
  const auto message = refusal([&] { get_peft_model(*model, config({1})); });
  EXPECT_NE(message.find("\"head.weight\""), std::string::npos);
}

struct CausalNetImpl : TokenNetImpl, nn::CausalLM {
  Tensor hidden_states(const Tensor& ids, const Tensor& /*mask*/) override {
    return up(embed_tokens(ids)).tanh();
  }
  nn::LmHead lm_head() const override {
    return follows ? nn::LmHead::of(*embed_tokens, 3)
                   : nn::LmHead{embed_tokens->weight, 3};
  }
  torch::nn::Module& module() override {
    return *this;
  }
  std::string model_type() const override {
    return "";
  }
  std::string architecture() const override {
    return "";
  }
  std::string name_or_path() const override {
    return "";
  }
  bool follows = false;
};

TEST_F(Tokens, AHeadThatIsAFunctionFollowsOrIsRefused) {
  auto model = test::make_module<CausalNetImpl>();
  const auto message = refusal([&] { get_peft_model(*model, config({1, 7})); });
  EXPECT_NE(message.find("LmHead::of"), std::string::npos);
  EXPECT_EQ(model->embed_tokens->named_children().size(), 0U);
  model->follows = true;
  auto peft = get_peft_model(*model, config({1, 7}));
  disturb(peft);
  const auto logits = [&] {
    return model->lm_head().logits(model->hidden_states(ids_, {}));
  };
  const auto adapted = logits();
  peft.merge_adapter();
  EXPECT_LT(difference(logits(), adapted), 1e-5);
  const auto guard = peft.disable_adapter();
  EXPECT_GT(difference(logits(), adapted), 1e-2);
}

TEST_F(Tokens, OperationsThatCannotHaveThemRefuse) {
  auto model = make();
  auto peft = get_peft_model(*model, config({1, 5}));
  const auto base = run(*model);
  disturb(peft);
  peft.add_adapter("plain", LoraConfig(2).target_modules({"up"}));
  const auto folder = fs::path(testing::TempDir()) / "token_swap";
  peft.save_pretrained(folder);
  model->eval();
  EXPECT_THROW((void)peft.mixed_batch({"default"}), c10::ValueError);
  EXPECT_THROW(
      peft.add_weighted_adapter({"default", "plain"}, {1, 1}, "sum"),
      c10::ValueError);
  EXPECT_THROW(hotswap_adapter(peft, folder / "plain"), c10::ValueError);
  EXPECT_THROW(hotswap_adapter(peft, folder, "plain"), c10::ValueError);
  EXPECT_THROW(
      reduce_intruder_dimension(peft, "default", "new", 1), c10::ValueError);
  // Elements of others see the base model's rows.
  const auto guard = peft.mixed_batch({"plain", "__base__", "plain"});
  EXPECT_LT(difference(run(*model), base), 1e-6);
}

TEST_F(Tokens, AGuardInInferenceModeLeavesRowsThatTrain) {
  auto model = make(TiedBy::kAssigned);
  auto peft = get_peft_model(*model, config({5, 1}));
  {
    const c10::InferenceMode mode;
    const auto guard = peft.disable_adapter();
    model->forward(ids_);
  }
  model->forward(ids_).square().sum().backward();
  EXPECT_TRUE(delta(peft).grad().defined());
}

TEST_F(Tokens, ASecondInjectionLeavesTheRowsOfTheFirst) {
  auto model = make();
  inject_adapter(*model, config({5, 1}), "first");
  const auto rows = [&] {
    return model->named_parameters()
        ["embed_tokens.token_adapter.trainable_tokens_delta.first"];
  };
  EXPECT_TRUE(rows().requires_grad());
  inject_adapter(*model, LoraConfig(2).target_modules({"lm_head"}), "second");
  EXPECT_TRUE(rows().requires_grad());
}

TEST_F(Tokens, MergedRowsKeepTheAdapterWhole) {
  auto model = make();
  auto peft = get_peft_model(*model, config({5, 1}));
  disturb(peft);
  const auto adapted = run(*model);
  peft.merge_adapter();
  peft.layers()[0].second->unmerge();
  EXPECT_THROW(peft.delete_adapter("default"), c10::ValueError);
  EXPECT_NE(peft.layers()[0].second->find_adapter("default"), nullptr);
  EXPECT_LT(difference(run(*model), adapted), 1e-5);
}

} // namespace
} // namespace torchlora
