#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/train/dpo.h>
#include <torchlora/train/trainer.h>

#include "device/device.h"
#include "train/toy_model.h"

namespace torchlora::train {
namespace {

/// A classifier in plain torch::nn.
struct ClassifierImpl : torch::nn::Module {
  ClassifierImpl() {
    torch::manual_seed(1);
    fc1 = register_module("fc1", torch::nn::Linear(4, 16));
    fc2 = register_module("fc2", torch::nn::Linear(16, 3));
    to(test::test_device());
  }
  at::Tensor forward(const at::Tensor& x) {
    return fc2(torch::relu(fc1(x)));
  }
  torch::nn::Linear fc1{nullptr}, fc2{nullptr};
};
TORCH_MODULE(Classifier);

class ClassifierTrainer : public Trainer {
 public:
  ClassifierTrainer(Classifier net, PeftModel peft, TrainingArguments args)
      : Trainer(std::move(peft), std::move(args)), net_(std::move(net)) {
    inputs_ = test::randn({32, 4});
    labels_ = inputs_.narrow(1, 0, 3).argmax(1);
    set_num_examples(24, 8);
  }

 protected:
  at::Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) override {
    const auto rows = test::tensor(indices) + (training ? 0 : 24);
    const auto labels = labels_.index_select(0, rows);
    const auto logits = net_(inputs_.index_select(0, rows));
    metrics.add(
        "accuracy",
        logits.argmax(1).eq(labels).to(at::kFloat).mean().item<double>());
    return torch::nn::functional::cross_entropy(logits, labels);
  }

 private:
  Classifier net_;
  at::Tensor inputs_, labels_;
};

TEST(PlainModel, AClassifierTrainsByTheLoop) {
  if (!has_weight_overlay()) {
    GTEST_SKIP() << "no weight overlay";
  }
  Classifier net;
  auto peft =
      get_peft_model(*net, LoraConfig(4).target_modules({"fc1", "fc2"}));
  const auto weight =
      peft.layers().at(0).second->base_weight().weight().clone();
  TrainingArguments args;
  args.learning_rate = 0.02;
  args.num_train_epochs = 20;
  args.eval_strategy = "epoch";
  args.eval_on_start = true;
  ClassifierTrainer trainer(net, peft, args);
  trainer.train();
  EXPECT_EQ(&trainer.model(), net.get());
  std::vector<double> losses, accuracies;
  for (const auto& record : trainer.state().log_history) {
    if (const auto* loss = record.find("eval_loss")) {
      losses.push_back(*loss);
      accuracies.push_back(record.at("eval_accuracy"));
    }
  }
  ASSERT_EQ(losses.size(), 21U);
  EXPECT_LT(losses.back(), 0.5 * losses.front());
  EXPECT_GT(accuracies.back(), 0.8);
  EXPECT_TRUE(peft.layers().at(0).second->base_weight().weight().equal(weight));
}

/// A language model that gives logits and nothing else, with the values of a
/// ToyModel. An nn::LmHead has no bias.
struct LogitsOnlyImpl : torch::nn::Module {
  LogitsOnlyImpl() {
    const ToyModel toy;
    embed = register_module("embed", toy->embed);
    proj = register_module("proj", toy->proj);
    lm_head = register_module("lm_head", toy->lm_head_);
    const torch::NoGradGuard no_grad;
    lm_head->bias.zero_();
  }
  at::Tensor forward(const at::Tensor& input_ids) {
    const auto state = embed(input_ids);
    const auto before = torch::constant_pad_nd(
        state.slice(1, 0, state.size(1) - 1), {0, 0, 1, 0});
    return lm_head(torch::tanh(proj(state + 0.5 * before)));
  }
  torch::nn::Embedding embed{nullptr};
  nn::Linear proj{nullptr}, lm_head{nullptr};
};
TORCH_MODULE(LogitsOnly);

const PreferenceTokenSet kPairs = {
    {{{1, 2}, {3, 4, 5}, {6}, "pairs.jsonl:1"},
     {{7}, {8}, {9, 10}, "pairs.jsonl:2"},
     {{3, 1}, {2, 2}, {4, 5}, "pairs.jsonl:3"}},
    {}};

DpoConfig dpo_config() {
  DpoConfig config;
  config.per_device_train_batch_size = 3;
  config.max_steps = 3;
  config.learning_rate = 0.05;
  config.logging_steps = 1;
  return config;
}

TEST(PlainModel, DpoByLogitsEqualsDpoByHiddenStates) {
  ToyModel causal;
  LogitsOnly plain;
  const auto lora = LoraConfig(2).target_modules({"proj"});
  torch::manual_seed(7);
  auto causal_peft = get_peft_model(*causal, lora);
  torch::manual_seed(7);
  auto plain_peft = get_peft_model(*plain, lora);
  DpoTrainer expected(causal, causal_peft, dpo_config(), kPairs, {}, 0);
  DpoTrainer trainer(plain, plain_peft, dpo_config(), kPairs, {}, 0);
  expected.train();
  trainer.train();
  const auto& records = trainer.state().log_history;
  ASSERT_EQ(records.size(), 4U);
  for (size_t i = 0; i < 3; ++i) {
    for (const auto& [name, value] : expected.state().log_history[i].metrics) {
      EXPECT_NEAR(records[i].at(name), value, 1e-5) << name << " of " << i;
    }
  }
}

// The head's weight is not used directly, so it may be adapted too.
TEST(PlainModel, DpoByLogitsTrainsAnAdaptedHead) {
  LogitsOnly plain;
  auto peft = get_peft_model(*plain, LoraConfig(2).target_modules({"lm_head"}));
  DpoTrainer trainer(
      [&](const at::Tensor& input_ids) { return plain(input_ids); },
      peft,
      dpo_config(),
      kPairs,
      {},
      0);
  trainer.train();
  const auto& records = trainer.state().log_history;
  EXPECT_NEAR(records[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_LT(records[2].at("loss"), std::log(2.0));
}

TEST(PlainModel, LogitsOfOtherSizesAndForeignTokensAreRefused) {
  LogitsOnly plain;
  const auto ids = test::tensor({{1, 2}});
  const auto position = test::tensor({0});
  const TokenScorer flat(
      [&](const at::Tensor& input_ids) { return plain(input_ids)[0]; });
  EXPECT_THROW(flat(ids, position, test::tensor({2})), c10::ValueError);
  const TokenScorer scorer(plain);
  if (test::test_device().is_cpu()) { // elsewhere the look-up of ids fails
    EXPECT_THROW(scorer(ids, position, test::tensor({11})), DataError);
  }
}

} // namespace
} // namespace torchlora::train
