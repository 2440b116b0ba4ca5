// trainable_token_indices, against peft's
// (tests/reference/make_token_goldens.py).
#include <filesystem>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/hotswap.h>
#include <torchlora/intruders.h>
#include <torchlora/io/peft.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/trainable_tokens.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/pretrained.h>
#include <torchlora/status.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;
using Names = std::vector<std::string>;

/// The head has the table's memory, or was assigned the table itself.
enum class Tie { kNone, kMemory, kAssigned };

struct NetImpl : torch::nn::Module {
  explicit NetImpl(
      Tie tie = Tie::kNone,
      const torch::nn::EmbeddingOptions& options = {12, 6})
      : embed_tokens(register_module("embed_tokens", nn::Embedding(options))) {
    if (tie == Tie::kMemory) {
      lm_head = nn::Linear(nn::LinearImpl::from_weight(embed_tokens->weight));
    }
    register_module("lm_head", lm_head);
    if (tie == Tie::kAssigned) {
      lm_head->weight = embed_tokens->weight;
    }
  }

  Tensor forward(const Tensor& ids) {
    return lm_head(up(embed_tokens(ids)).tanh());
  }

  nn::Embedding embed_tokens;
  nn::Linear up = register_module("up", nn::Linear(6, 6));
  nn::Linear lm_head{torch::nn::LinearOptions(6, 12).bias(false)};
};

class Tokens : public testing::Test {
 protected:
  std::shared_ptr<NetImpl> make(
      Tie tie = Tie::kNone,
      const torch::nn::EmbeddingOptions& options = {12, 6}) {
    torch::NoGradGuard no_grad;
    auto model = std::make_shared<NetImpl>(tie, options);
    model->embed_tokens->weight.copy_(
        reference_.tensor("base.embed_tokens.weight"));
    model->up->weight.copy_(reference_.tensor("base.up.weight"));
    model->up->bias.copy_(reference_.tensor("base.up.bias"));
    if (tie == Tie::kNone) {
      model->lm_head->weight.copy_(reference_.tensor("base.lm_head.weight"));
    }
    return model;
  }
  Tensor run(NetImpl& model) {
    torch::NoGradGuard no_grad;
    return model.forward(ids_);
  }
  /// As training would, and not the same for every adapter.
  static void disturb(PeftModel& peft) {
    torch::NoGradGuard no_grad;
    for (auto& parameter : peft.trainable_parameters()) {
      parameter.add_(torch::randn_like(parameter), 0.3);
    }
  }
  static LoraConfig config(const TrainableTokenIndices& indices) {
    return LoraConfig(2).target_modules({"up"}).trainable_token_indices(
        indices);
  }
  static Tensor delta(
      const PeftModel& peft,
      const std::string& adapter = "default") {
    return peft.state_dict(adapter)
        ["base_model.model.embed_tokens.token_adapter."
         "trainable_tokens_delta"];
  }

  static inline const fs::path folder_ =
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "tokens";
  io::SafetensorsFile reference_{folder_ / "reference.safetensors"};
  Tensor ids_ = reference_.tensor("ids");
};

struct Case {
  const char* name;
  Tie tie = Tie::kNone;
  double embed_scale = 1;
  torch::nn::EmbeddingOptions options{12, 6};
};

class TokenGoldens : public Tokens, public testing::WithParamInterface<Case> {};

TEST_P(TokenGoldens, AreThoseOfPeft) {
  const auto& [name_, tie, embed_scale, options] = GetParam();
  const std::string name = name_;
  auto model = make(tie, options);
  model->embed_tokens->embed_scale = embed_scale;
  const auto untouched = model->embed_tokens->weight.detach().clone();
  auto peft = PeftModel::from_pretrained(
      *model, folder_ / name, "default", /*is_trainable=*/true);
  const auto output = model->forward(ids_);
  const auto expected = reference_.tensor(name + ".output");
  EXPECT_LT(difference(output, expected), 1e-5);
  EXPECT_GT(difference(reference_.tensor(name + ".base"), expected), 1e-2);

  output.square().sum().backward();
  for (const auto& item : peft.state_dict()) {
    const auto key = name + ".grad." + item.key();
    ASSERT_EQ(item.value().grad().defined(), reference_.contains(key)) << key;
    if (reference_.contains(key)) {
      const auto gradient = reference_.tensor(key);
      EXPECT_LT(
          difference(item.value().grad(), gradient),
          1e-5 * gradient.abs().max().item<double>())
          << key;
    }
  }
  EXPECT_FALSE(model->embed_tokens->weight.grad().defined());

  const auto saved = fs::path(testing::TempDir()) / "token_adapter";
  peft.save_pretrained(saved);
  const io::SafetensorsFile ours(saved / "adapter_model.safetensors");
  std::set<std::string> keys(ours.keys().begin(), ours.keys().end());
  const io::SafetensorsFile theirs(
      folder_ / name / "adapter_model.safetensors");
  for (const auto& key : theirs.keys()) {
    // The table that is the base model's is not saved again.
    EXPECT_TRUE(keys.erase(key) || key == "base_model.model.lm_head.weight")
        << key;
  }
  EXPECT_TRUE(keys.empty());
  EXPECT_EQ(
      io::load_adapter_config(saved).trainable_token_indices(),
      io::load_adapter_config(folder_ / name).trainable_token_indices());

  peft.unload();
  EXPECT_TRUE(torch::equal(model->embed_tokens->weight, untouched));
  EXPECT_EQ(model->embed_tokens->named_children().size(), 0U);
  auto loaded = PeftModel::from_pretrained(*model, saved);
  EXPECT_LT(difference(run(*model), output), 1e-6);
  EXPECT_TRUE(loaded.trainable_parameters().empty());
  loaded.merge_and_unload();
  const auto merged = model->named_parameters();
  EXPECT_EQ(merged.size(), 4U);
  for (const auto& item : merged) {
    const auto key = name + ".merged." + item.key();
    if (reference_.contains(key)) {
      EXPECT_LT(difference(item.value(), reference_.tensor(key)), 1e-6) << key;
    }
  }
  EXPECT_LT(difference(run(*model), expected), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Cases,
    TokenGoldens,
    testing::Values(
        Case{"list"},
        Case{"tied", Tie::kMemory},
        Case{"both_names", Tie::kMemory},
        Case{"two"},
        Case{"scaled", Tie::kMemory, 1.7},
        Case{
            "options",
            Tie::kNone,
            1,
            torch::nn::EmbeddingOptions(12, 6)
                .padding_idx(5)
                .max_norm(1.5)
                .scale_grad_by_freq(true)},
        Case{"saved_table"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(Tokens, OnlyTheRowsTrainAndTheyStartAsTheBase) {
  auto model = make(Tie::kAssigned);
  const auto base = run(*model);
  auto peft = get_peft_model(*model, config({{"embed_tokens", {9, 1}}}));
  EXPECT_LT(difference(run(*model), base), 1e-6);
  EXPECT_EQ(peft.trainable_parameters().size(), 3U);
  EXPECT_EQ(peft.get_nb_trainable_parameters().first, 24 + 12);
  EXPECT_FALSE(model->embed_tokens->weight.requires_grad());
  const auto table = model->embed_tokens->weight.detach().clone();
  EXPECT_TRUE(torch::equal(delta(peft)[0], table[9]));
  torch::optim::SGD optimizer(peft.trainable_parameters(), 0.1);
  model->forward(ids_).square().sum().backward();
  optimizer.step();
  EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
  EXPECT_FALSE(torch::equal(delta(peft)[0], table[9]));
  // The head that was assigned the table sees the rows too.
  EXPECT_EQ(run(*model).sub(base).ne(0).any(0).any(0)[1].item<bool>(), true);
  const auto adapted = run(*model);
  peft.merge_and_unload();
  EXPECT_LT(difference(run(*model), adapted), 1e-5);
}

// The gradient of a dense table, which both uses of it see.
TEST_F(Tokens, GradientsAreThoseOfADenseTable) {
  auto model = make(Tie::kAssigned);
  auto peft = get_peft_model(*model, config({7, 1, 5}));
  disturb(peft);
  model->to(torch::kDouble);
  model->forward(ids_).square().sum().backward();
  const auto gradient = delta(peft).grad();
  peft.merge_and_unload();
  model->embed_tokens->weight.set_requires_grad(true);
  model->forward(ids_).square().sum().backward();
  EXPECT_LT(
      difference(
          model->embed_tokens->weight.grad().index_select(
              0, torch::tensor({7, 1, 5})),
          gradient),
      1e-12 * gradient.abs().max().item<double>());
}

TEST_F(Tokens, EachAdapterHasItsOwnAndDisjointOnesGoTogether) {
  auto model = make(Tie::kMemory);
  const auto base = run(*model);
  auto peft = get_peft_model(*model, config({1, 5}));
  disturb(peft);
  const auto first = run(*model);
  peft.add_adapter("second", config({9}));
  peft.add_adapter("third", config({5}));
  peft.add_adapter("plain", LoraConfig(2).target_modules({"up"}));
  peft.set_adapter("second");
  EXPECT_LT(difference(run(*model), base), 1e-6);
  EXPECT_FALSE(delta(peft).requires_grad());
  disturb(peft);
  const auto second = run(*model);
  peft.set_adapter("plain");
  EXPECT_LT(difference(run(*model), base), 1e-6);

  const auto error = refusal([&] { peft.set_adapter({"default", "third"}); });
  EXPECT_NE(error.find("row 5 of \"embed_tokens\""), std::string::npos);
  EXPECT_EQ(peft.active_adapters(), Names{"plain"});
  peft.set_adapter({"default", "second"});
  const auto both = run(*model);
  EXPECT_GT(difference(both, first), 1e-3);
  peft.merge_adapter();
  EXPECT_LT(difference(run(*model), both), 1e-5);
  peft.unmerge_adapter();
  peft.set_adapter("default");
  EXPECT_LT(difference(run(*model), first), 1e-5);
  peft.delete_adapter("default"); // "plain" becomes active
  EXPECT_LT(difference(run(*model), base), 1e-5);
  peft.set_adapter("second");
  EXPECT_LT(difference(run(*model), second), 1e-5);
  peft.delete_adapter("second");
  peft.delete_adapter("third");
  EXPECT_EQ(model->embed_tokens->named_children().size(), 0U);
  EXPECT_LT(difference(run(*model), base), 1e-5);
}

TEST_F(Tokens, MergeAndUnmergeRestoreTheRowsExactly) {
  for (const auto tie : {Tie::kNone, Tie::kMemory, Tie::kAssigned}) {
    auto model = make(tie);
    const auto base = run(*model);
    const auto table = model->embed_tokens->weight.detach().clone();
    auto peft = get_peft_model(*model, config({5, 1}));
    disturb(peft);
    const auto adapted = run(*model);
    {
      const auto guard = peft.disable_adapter();
      EXPECT_LT(difference(run(*model), base), 1e-6);
    }
    peft.merge_adapter(/*safe_merge=*/true);
    EXPECT_FALSE(torch::equal(model->embed_tokens->weight, table));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
    {
      const auto guard = peft.disable_adapter();
      EXPECT_LT(difference(run(*model), base), 1e-5);
      peft.add_adapter("second", config({1, 2}));
    }
    EXPECT_TRUE(torch::equal(delta(peft, "second")[0], table[1]));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
    EXPECT_THROW(peft.merge_adapter(false, {"second"}), c10::ValueError);
    EXPECT_THROW(peft.delete_adapter("default"), c10::ValueError);
    peft.unmerge_adapter();
    EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
  }
}

// What LibTorch's to() does to layers that share memory only.
TEST_F(Tokens, AHeadThatWasPartedFollowsAMerge) {
  auto model = make(Tie::kMemory);
  auto peft = get_peft_model(*model, config({5, 1}));
  disturb(peft);
  model->to(torch::kDouble);
  const auto adapted = run(*model);
  const auto head = model->lm_head->weight.detach().clone();
  peft.merge_adapter();
  EXPECT_LT(difference(run(*model), adapted), 1e-12);
  peft.unmerge_adapter();
  EXPECT_TRUE(torch::equal(model->lm_head->weight, head));
}

TEST_F(Tokens, ASafeMergeOfBrokenRowsWritesNothing) {
  auto model = make();
  auto peft = get_peft_model(*model, config({5, 1}));
  disturb(peft);
  torch::NoGradGuard no_grad;
  delta(peft)[1][2].fill_(NAN);
  const auto up = model->up->weight.clone();
  EXPECT_THROW(peft.merge_adapter(/*safe_merge=*/true), c10::ValueError);
  EXPECT_THROW(peft.merge_and_unload(/*safe_merge=*/true), c10::ValueError);
  EXPECT_TRUE(torch::equal(model->up->weight, up));
  EXPECT_TRUE(torch::equal(
      model->embed_tokens->weight,
      reference_.tensor("base.embed_tokens.weight")));
}

TEST_F(Tokens, HalfPrecisionTablesHaveFp32Rows) {
  auto model = make(Tie::kMemory);
  model->to(torch::kBFloat16);
  auto peft = get_peft_model(*model, config({5, 1}));
  EXPECT_EQ(delta(peft).scalar_type(), torch::kFloat);
  disturb(peft);
  const auto output = model->forward(ids_);
  EXPECT_EQ(output.scalar_type(), torch::kBFloat16);
  output.to(torch::kFloat).square().sum().backward();
  EXPECT_EQ(delta(peft).grad().scalar_type(), torch::kFloat);
  EXPECT_GT(delta(peft).grad().abs().min().item<double>(), 0);
  peft.merge_adapter();
  EXPECT_TRUE(torch::equal(
      model->embed_tokens->weight[5], delta(peft)[0].to(torch::kBFloat16)));

  auto other = make();
  other->to(torch::kBFloat16);
  auto same = get_peft_model(
      *other, config({5}), "default", /*autocast_adapter_dtype=*/false);
  EXPECT_EQ(delta(same).scalar_type(), torch::kBFloat16);
}

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
    auto model = make(Tie::kMemory);
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

  auto model = make(Tie::kMemory);
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
  auto model = std::make_shared<RawImpl>();
  const auto message = refusal([&] { get_peft_model(*model, config({1})); });
  EXPECT_NE(message.find("\"head.weight\""), std::string::npos);
}

// peft would take "wembed_tokens" for one too.
TEST_F(Tokens, NamesAreSavedInFullWherePeftWouldTakeOthersToo) {
  struct TwoImpl : torch::nn::Module {
    TwoImpl() {
      const auto parent =
          register_module("m", std::make_shared<torch::nn::Module>());
      parent->register_module("embed_tokens", nn::Embedding(12, 6));
      parent->register_module("wembed_tokens", nn::Embedding(12, 6));
      parent->register_module("up", nn::Linear(6, 6));
    }
  };
  auto model = std::make_shared<TwoImpl>();
  auto peft = get_peft_model(*model, config({{"embed_tokens", {1, 5}}}));
  EXPECT_EQ(peft.trainable_parameters().size(), 3U);
  const auto folder = fs::path(testing::TempDir()) / "token_names";
  peft.save_pretrained(folder);
  EXPECT_EQ(
      io::load_adapter_config(folder).trainable_token_indices(),
      (TrainableTokenIndices{{"m.embed_tokens", {1, 5}}}));
}

struct CausalNetImpl : NetImpl, nn::CausalLM {
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
  auto model = std::make_shared<CausalNetImpl>();
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

// peft drops it.
TEST_F(Tokens, ATiedHeadKeepsItsBias) {
  auto model = make(Tie::kMemory);
  torch::NoGradGuard no_grad;
  model->lm_head->bias = torch::randn({12});
  const auto base = run(*model);
  auto peft = get_peft_model(*model, config({1, 7}));
  EXPECT_LT(difference(run(*model), base), 1e-6);
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

TEST_F(Tokens, AreInTheStatus) {
  auto model = make(Tie::kMemory);
  auto peft = get_peft_model(*model, config({1, 5}));
  const auto layers = get_layer_status(peft);
  ASSERT_EQ(layers.size(), 2U);
  const auto& rows = layers[1];
  EXPECT_EQ(rows.name, "embed_tokens.token_adapter");
  EXPECT_EQ(rows.module_type, "torchlora::TrainableTokens");
  EXPECT_EQ(rows.active_adapters, Names{"default"});
  EXPECT_EQ(rows.requires_grad.at("default"), Consistency::kTrue);
  peft.merge_adapter();
  EXPECT_EQ(get_model_status(peft).merged_adapters, Names{"default"});
  EXPECT_EQ(get_model_status(peft).num_adapter_layers, 2);
  const auto guard = peft.disable_adapter();
  EXPECT_EQ(get_model_status(peft).enabled, Consistency::kFalse);
}

TEST_F(Tokens, WorkWithoutAHandle) {
  auto model = make(Tie::kMemory);
  inject_adapter(*model, config({1, 5}));
  model->forward(ids_).sum().backward();
  const auto parameters = model->named_parameters();
  const auto& rows =
      parameters["embed_tokens.token_adapter.trainable_tokens_delta.default"];
  EXPECT_GT(rows.grad().abs().sum().item<double>(), 0);
}

TEST_F(Tokens, LayersMayOutliveEachOther) {
  auto model = make(Tie::kMemory);
  get_peft_model(*model, config({1, 5}));
  const auto head = model->lm_head;
  model.reset();
  EXPECT_EQ(head->redirect_target(), nullptr);

  model = make(Tie::kMemory);
  get_peft_model(*model, config({1, 5}));
  auto table = model->embed_tokens;
  model.reset();
  EXPECT_EQ(table(ids_).size(-1), 6);
}

} // namespace
} // namespace torchlora
