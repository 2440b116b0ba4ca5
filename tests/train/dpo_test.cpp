#include <torchlora/train/dpo.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/lora/layer.h>

#include "support.h"
#include "train/toy_model.h"

namespace torchlora::train {
namespace {
namespace fs = std::filesystem;

const PreferenceTokenSet kPairs = {
    {{{1, 2}, {3, 4, 5}, {6}, "pairs.jsonl:1"},
     {{7}, {8}, {9, 10}, "pairs.jsonl:2"},
     {{3, 1}, {2, 2}, {4, 5}, "pairs.jsonl:3"}},
    {}};

class Dpo : public testing::Test {
 protected:
  Dpo() {
    config.per_device_train_batch_size = 3;
    config.max_steps = 2;
    config.learning_rate = 0.05;
    config.logging_steps = 1;
    config.train_sampling_strategy = "sequential";
  }

  void fill_lora_b(const PeftModel& peft) {
    torch::NoGradGuard no_grad;
    for (const auto& [name, layer] : peft.layers()) {
      layer->find_adapter("default")->lora_B->weight.normal_(0, 0.3);
    }
  }

  DpoTrainer trainer(const PeftModel& peft) {
    return {*model, peft, config, kPairs, {}, /*pad_token_id=*/0};
  }

  std::string error_of(const PeftModel& peft) {
    try {
      trainer(peft);
    } catch (const c10::ValueError& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  }

  DpoConfig config;
  ToyModel model;
  LoraConfig lora = LoraConfig(2).target_modules({"proj"});
};

/// Summed log-probabilities of the completion, one token after the other.
double plain_logp(
    ToyModel& model,
    const std::vector<int64_t>& prompt,
    const std::vector<int64_t>& completion) {
  torch::NoGradGuard no_grad;
  auto ids = prompt;
  double sum = 0;
  for (const auto token : completion) {
    const auto hidden =
        model->hidden_states(test::tensor(ids).unsqueeze(0), {});
    const auto logits = hidden[0][-1].matmul(model->lm_head().weight.t());
    sum += logits.log_softmax(0)[token].item<double>();
    ids.push_back(token);
  }
  return sum;
}

TEST_F(Dpo, FirstStepFollowsTheFormulas) {
  auto peft = get_peft_model(*model, lora);
  fill_lora_b(peft);
  config.reference = "base";
  double loss = 0, chosen_reward = 0, accuracy = 0, chosen_logp = 0;
  for (const auto& pair : kPairs.examples) {
    const auto chosen = plain_logp(model, pair.prompt_ids, pair.chosen_ids);
    const auto rejected = plain_logp(model, pair.prompt_ids, pair.rejected_ids);
    const auto guard = peft.disable_adapter();
    const auto ref_chosen = plain_logp(model, pair.prompt_ids, pair.chosen_ids);
    const auto ref_rejected =
        plain_logp(model, pair.prompt_ids, pair.rejected_ids);
    const double a = 0.1 * (chosen - ref_chosen);
    const double b = 0.1 * (rejected - ref_rejected);
    loss += std::log1p(std::exp(b - a)) / 3;
    chosen_reward += a / 3;
    accuracy += (a > b) / 3.;
    chosen_logp += chosen / 3;
  }
  auto dpo = trainer(peft);
  dpo.train();
  const auto& record = dpo.state().log_history.at(0);
  EXPECT_NEAR(record.at("loss"), loss, 1e-6);
  EXPECT_NEAR(record.at("rewards/chosen"), chosen_reward, 1e-6);
  EXPECT_NEAR(record.at("rewards/accuracies"), accuracy, 1e-6);
  EXPECT_NEAR(record.at("logps/chosen"), chosen_logp, 1e-5);
  EXPECT_EQ(record.at("num_tokens"), 5 + 2 + 4 + 3 + 3 + 4);
}

// A mean is that of all pairs or tokens, whatever the batches are.
TEST_F(Dpo, MetricsDoNotDependOnTheBatchSize) {
  auto peft = get_peft_model(*model, lora);
  fill_lora_b(peft);
  config.reference = "base";
  config.learning_rate = 0;
  config.per_device_train_batch_size = 2; // and a micro-batch of one pair
  config.gradient_accumulation_steps = 2;
  std::vector<LogRecord> records;
  for (const int64_t batch_size : {3, 2, 1}) {
    config.per_device_eval_batch_size = batch_size;
    DpoTrainer dpo(*model, peft, config, kPairs, kPairs, /*pad_token_id=*/0);
    records.push_back(dpo.evaluate());
    dpo.train();
    auto logged = dpo.state().log_history.at(0);
    for (auto& metric : logged.metrics) {
      metric.first = "eval_" + metric.first;
    }
    records.push_back(logged);
  }
  for (const auto* name :
       {"eval_rewards/chosen",
        "eval_rewards/rejected",
        "eval_rewards/margins",
        "eval_rewards/accuracies",
        "eval_logps/chosen",
        "eval_logps/rejected",
        "eval_logits/chosen",
        "eval_logits/rejected",
        "eval_mean_token_accuracy",
        "eval_entropy"}) {
    for (const auto& record : records) {
      EXPECT_NEAR(record.at(name), records[0].at(name), 1e-5) << name;
    }
  }
}

TEST_F(Dpo, AFreshAdapterIsComparedWithTheBase) {
  auto peft = get_peft_model(*model, lora);
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "base");
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_EQ(dpo.state().log_history[0].at("rewards/accuracies"), 0);
  EXPECT_LT(dpo.state().log_history[1].at("loss"), std::log(2.0));
  EXPECT_EQ(peft.adapter_names(), (std::vector<std::string>{"default"}));
}

TEST_F(Dpo, ATrainedAdapterIsComparedWithItsCopy) {
  auto peft = get_peft_model(*model, lora);
  fill_lora_b(peft);
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "initial_adapter");
  const auto layer = peft.layers().at(0).second;
  const auto before = layer->find_adapter("ref")->lora_B->weight.clone();
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_LT(dpo.state().log_history[1].at("loss"), std::log(2.0));
  EXPECT_TRUE(layer->find_adapter("ref")->lora_B->weight.equal(before));
  EXPECT_FALSE(layer->find_adapter("default")->lora_B->weight.equal(before));
  EXPECT_EQ(peft.active_adapters(), (std::vector<std::string>{"default"}));

  const auto folder = fs::path(testing::TempDir()) / "dpo_with_reference";
  fs::remove_all(folder);
  dpo.save_model(folder);
  EXPECT_TRUE(fs::exists(folder / "adapter_model.safetensors"));
  EXPECT_TRUE(fs::exists(folder / "ref" / "adapter_model.safetensors"));
}

TEST_F(Dpo, TrainsEveryTensorOfADoraAdapter) {
  auto peft = get_peft_model(*model, lora.use_dora(true));
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "base");
  const auto* adapter = peft.layers().at(0).second->find_adapter("default");
  const auto before = adapter->variant_tensor("lora_magnitude_vector").clone();
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_FALSE(adapter->variant_tensor("lora_magnitude_vector").equal(before));
}

// PiSSA takes the update out of the base: disabled adapters are not the model
// that training started from.
TEST_F(Dpo, AnInitializerThatChangesTheBaseIsComparedWithItsCopy) {
  auto peft = get_peft_model(*model, lora.init_lora_weights("pissa"));
  const auto weight =
      peft.layers().at(0).second->base_weight().weight().clone();
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "initial_adapter");
  EXPECT_TRUE(peft.layers().at(0).second->base_weight().weight().equal(weight));
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);

  config.reference = "base";
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "use initial_adapter", error_of(peft));
}

TEST_F(Dpo, AnAdapterThatAllowsNoCopyIsNamed) {
  auto peft = get_peft_model(*model, lora.r(1).kasa_config(KasaConfig()));
  for (const char* reference : {"auto", "base", "initial_adapter"}) {
    config.reference = reference;
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring,
        "adapter default has kasa_config",
        error_of(peft));
  }
}

TEST_F(Dpo, DropoutIsSwitchedOffAndSaidSo) {
  auto peft = get_peft_model(*model, lora.lora_dropout(0.5));
  const Warnings warnings;
  trainer(peft);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "lora_dropout 0.5 has no effect", warnings.text);
  EXPECT_EQ(peft.layers().at(0).second->adapters().front().lora_dropout, 0);
}

TEST_F(Dpo, AModuleThatIsTrainedWholeIsNotInTheReference) {
  auto peft = get_peft_model(*model, lora.modules_to_save({"embed"}));
  const auto before = model->embed->weight.clone();
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "base");
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_LT(dpo.state().log_history[1].at("loss"), std::log(2.0));
  const auto trained = model->embed->weight.clone();
  EXPECT_FALSE(trained.equal(before));
  {
    const auto guard = peft.disable_adapter();
    EXPECT_TRUE(model->embed->weight.equal(before));
  }

  // Now it is not the base any more, whatever its factors are.
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    layer->find_adapter("default")->lora_B->weight.zero_();
  }
  auto next = trainer(peft);
  EXPECT_EQ(next.reference(), "initial_adapter");
  peft.set_adapter("ref");
  EXPECT_TRUE(model->embed->weight.equal(trained));
}

TEST_F(Dpo, RowsOfTheHeadAreTrainedAndNotInTheReference) {
  auto peft = get_peft_model(
      *model, lora.trainable_token_indices({{"lm_head", {3, 1, 7}}}));
  const auto rows = peft.state_dict()
                        ["base_model.model.lm_head.token_adapter."
                         "trainable_tokens_delta"];
  const auto before = rows.detach().clone();
  auto dpo = trainer(peft);
  EXPECT_EQ(dpo.reference(), "base");
  dpo.train();
  EXPECT_NEAR(dpo.state().log_history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_LT(dpo.state().log_history[1].at("loss"), std::log(2.0));
  EXPECT_FALSE(rows.equal(before));

  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    layer->find_adapter("default")->lora_B->weight.zero_();
  }
  auto next = trainer(peft);
  EXPECT_EQ(next.reference(), "initial_adapter");
  EXPECT_TRUE(peft.state_dict("ref")["base_model.model.lm_head.token_adapter."
                                     "trainable_tokens_delta"]
                  .equal(rows));
}

TEST_F(Dpo, WhatWouldFalsifyTheReferenceIsRefused) {
  auto peft = get_peft_model(*model, lora);
  model->embed->weight.set_requires_grad(true);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "embed.weight is trainable", error_of(peft));
  model->embed->weight.set_requires_grad(false);
  peft.merge_adapter();
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "merged into proj", error_of(peft));
  ToyModel other;
  auto head = get_peft_model(*other, LoraConfig(2).target_modules({"lm_head"}));
  model = other;
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "the output head lm_head is adapted",
      error_of(head));
}

TEST_F(Dpo, ATokenTheModelDoesNotHaveIsNamed) {
  auto peft = get_peft_model(*model, lora);
  auto pairs = kPairs;
  pairs.examples[1].chosen_ids = {11};
  try {
    DpoTrainer(*model, peft, config, pairs, {}, /*pad_token_id=*/0);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring,
        "pairs.jsonl:2: token 11 is not one of the model's 11",
        error.what_without_backtrace());
  }
}

TEST_F(Dpo, ImpossibleConfigurationsNameTheField) {
  auto peft = get_peft_model(*model, lora);
  config.loss_type = {"sigmoid", "hinged"};
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "loss_type must be one of sigmoid, found hinged",
      error_of(peft));
  config.loss_type = {"sigmoid"};
  config.loss_weights = {1, 2};
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "loss_weights must be as many", error_of(peft));
  config.loss_weights = {};
  config.reference = "none";
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "reference must be auto, base or", error_of(peft));
  config.reference = "auto";
  for (const double beta : {double{INFINITY}, double{NAN}}) {
    config.beta = beta;
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "beta must be", error_of(peft));
  }
  config.beta = 0.1;
  config.loss_weights = {NAN};
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "loss_weights must be finite", error_of(peft));
  config.loss_weights = {};
  config.beta = 0;
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "beta must be positive, found 0", error_of(peft));
}

} // namespace
} // namespace torchlora::train
