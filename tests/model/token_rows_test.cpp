// trainable_token_indices, against peft's
// (tests/reference/make_token_goldens.py).
#include <set>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/model/status.h>
#include <torchlora/model/trainable_tokens.h>

#include "model/tokens_net.h"
#include "support.h"

namespace torchlora {
namespace {

struct Case {
  const char* name;
  TiedBy tie = TiedBy::kNone;
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
      *model, folder_ / name, "default", LoadOptions().is_trainable(true));
  const auto output = model->forward(ids_);
  const auto expected = reference_.tensor(name + ".output");
  EXPECT_LT(difference(output, expected), 1e-5);
  EXPECT_GT(difference(reference_.tensor(name + ".base"), expected), 1e-2);

  output.square().sum().backward();
  expect_gradients(peft, reference_, name);
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
  const auto our_config = load_adapter_config(saved);
  const auto their_config = load_adapter_config(folder_ / name);
  EXPECT_EQ(
      our_config.trainable_token_indices(),
      their_config.trainable_token_indices());

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
        Case{"tied", TiedBy::kMemory},
        Case{"both_names", TiedBy::kMemory},
        Case{"two"},
        Case{"scaled", TiedBy::kMemory, 1.7},
        Case{
            "options",
            TiedBy::kNone,
            1,
            torch::nn::EmbeddingOptions(12, 6)
                .padding_idx(5)
                .max_norm(1.5)
                .scale_grad_by_freq(true)},
        Case{"saved_table"}),
    [](const auto& test) { return std::string(test.param.name); });

TEST_F(Tokens, OnlyTheRowsTrainAndTheyStartAsTheBase) {
  auto model = make(TiedBy::kAssigned);
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
  auto model = make(TiedBy::kAssigned);
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
              0, test::tensor({7, 1, 5})),
          gradient),
      1e-12 * gradient.abs().max().item<double>());
}

TEST_F(Tokens, EachAdapterHasItsOwnAndDisjointOnesGoTogether) {
  auto model = make(TiedBy::kMemory);
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
  for (const auto tie : {TiedBy::kNone, TiedBy::kMemory, TiedBy::kAssigned}) {
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
    peft.merge_adapter(MergeOptions().safe_merge(true));
    EXPECT_FALSE(torch::equal(model->embed_tokens->weight, table));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
    {
      const auto guard = peft.disable_adapter();
      EXPECT_LT(difference(run(*model), base), 1e-5);
      peft.add_adapter("second", config({1, 2}));
    }
    EXPECT_TRUE(torch::equal(delta(peft, "second")[0], table[1]));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
    EXPECT_THROW(
        peft.merge_adapter(MergeOptions().adapter_names({"second"})),
        c10::ValueError);
    EXPECT_THROW(peft.delete_adapter("default"), c10::ValueError);
    peft.unmerge_adapter();
    EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
    EXPECT_LT(difference(run(*model), adapted), 1e-5);
  }
}

// What LibTorch's to() does to layers that share memory only.
TEST_F(Tokens, AHeadThatWasPartedFollowsAMerge) {
  auto model = make(TiedBy::kMemory);
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
  EXPECT_THROW(
      peft.merge_adapter(MergeOptions().safe_merge(true)), c10::ValueError);
  EXPECT_THROW(
      peft.merge_and_unload(MergeOptions().safe_merge(true)), c10::ValueError);
  EXPECT_TRUE(torch::equal(model->up->weight, up));
  EXPECT_TRUE(torch::equal(
      model->embed_tokens->weight,
      test::on_device(reference_.tensor("base.embed_tokens.weight"))));
}

// As with LoRA: what an adapter is merged into stays the checkpoint's.
TEST_F(Tokens, MaxNormWritesInNoState) {
  const auto options = torch::nn::EmbeddingOptions(12, 6).max_norm(1.5);
  auto model = make(TiedBy::kNone, options);
  const auto plain = make(TiedBy::kNone, options);
  const auto base = run(*plain);
  const auto table = model->embed_tokens->weight.detach().clone();
  EXPECT_FALSE(torch::equal(plain->embed_tokens->weight, table));
  auto peft = get_peft_model(*model, config({{"embed_tokens", {9, 1}}}));
  disturb(peft);
  const auto adapted = run(*model);
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(run(*model), base), 1e-6);
  }
  EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
  peft.set_adapter(std::vector<std::string>{});
  EXPECT_LT(difference(run(*model), base), 1e-6);
  EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
  peft.set_adapter("default");
  peft.merge_adapter();
  EXPECT_LT(difference(run(*model), adapted), 1e-5);
  peft.unmerge_adapter();
  EXPECT_TRUE(torch::equal(model->embed_tokens->weight, table));
}

TEST_F(Tokens, HalfPrecisionTablesHaveFp32Rows) {
  auto model = make(TiedBy::kMemory);
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
      *other,
      config({5}),
      "default",
      InjectOptions().autocast_adapter_dtype(false));
  EXPECT_EQ(delta(same).scalar_type(), torch::kBFloat16);
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
  auto model = test::make_module<TwoImpl>();
  auto peft = get_peft_model(*model, config({{"embed_tokens", {1, 5}}}));
  EXPECT_EQ(peft.trainable_parameters().size(), 3U);
  const auto folder = fs::path(testing::TempDir()) / "token_names";
  peft.save_pretrained(folder);
  const auto saved = load_adapter_config(folder);
  EXPECT_EQ(
      saved.trainable_token_indices(),
      (TrainableTokenIndices{{"m.embed_tokens", {1, 5}}}));
}

// peft drops it.
TEST_F(Tokens, ATiedHeadKeepsItsBias) {
  auto model = make(TiedBy::kMemory);
  torch::NoGradGuard no_grad;
  model->lm_head->bias = test::randn({12});
  const auto base = run(*model);
  auto peft = get_peft_model(*model, config({1, 7}));
  EXPECT_LT(difference(run(*model), base), 1e-6);
}

TEST_F(Tokens, AreInTheStatus) {
  auto model = make(TiedBy::kMemory);
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
  auto model = make(TiedBy::kMemory);
  inject_adapter(*model, config({1, 5}));
  model->forward(ids_).sum().backward();
  const auto parameters = model->named_parameters();
  const auto& rows =
      parameters["embed_tokens.token_adapter.trainable_tokens_delta.default"];
  EXPECT_GT(rows.grad().abs().sum().item<double>(), 0);
}

TEST_F(Tokens, LayersMayOutliveEachOther) {
  auto model = make(TiedBy::kMemory);
  get_peft_model(*model, config({1, 5}));
  const auto head = model->lm_head;
  model.reset();
  EXPECT_EQ(head->redirect_target(), nullptr);

  model = make(TiedBy::kMemory);
  get_peft_model(*model, config({1, 5}));
  auto table = model->embed_tokens;
  model.reset();
  EXPECT_EQ(table(ids_).size(-1), 6);
}

} // namespace
} // namespace torchlora
