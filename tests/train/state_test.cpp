#include <torchlora/train/state.h>

#include <cmath>

#include <c10/util/Exception.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <torchlora/train/arguments.h>

#include "device/device.h"

namespace torchlora::train {
namespace {

TEST(LogRecordTest, IsALineInTheOrderOfRecording) {
  LogRecord record{
      7, 0.35, {{"loss", 0.6317089796066284}, {"num_tokens", 218}}};
  EXPECT_EQ(
      record.to_json(),
      R"({"loss":0.6317089796066284,"num_tokens":218.0,"epoch":0.35,"step":7})");
  EXPECT_EQ(record.at("num_tokens"), 218);
  EXPECT_EQ(record.find("grad_norm"), nullptr);
  EXPECT_THROW(record.at("grad_norm"), c10::ValueError);
}

TEST(MetricsTest, MeansAndLastValuesAreTakenOnce) {
  Metrics metrics;
  metrics.add("loss", 1);
  metrics.set("num_tokens", 10);
  metrics.add("loss", 2);
  metrics.set("num_tokens", 25);
  using Taken = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(
      metrics.take("eval_"),
      (Taken{{"eval_loss", 1.5}, {"eval_num_tokens", 25}}));
  EXPECT_TRUE(metrics.empty());
}

TEST(MetricsTest, ATensorIsOneNumberOfAnySizes) {
  Metrics metrics;
  metrics.add("accuracy", test::ones({1}), 3);
  metrics.add("accuracy", test::zeros({}), 1);
  metrics.add("loss", test::full({1, 1}, 2));
  EXPECT_THROW(metrics.add("loss", test::ones({4})), c10::ValueError);
  using Taken = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(metrics.take(), (Taken{{"accuracy", 0.75}, {"loss", 2}}));
}

TEST(MetricsTest, MeansWeighByExamples) {
  Metrics metrics;
  metrics.add("accuracy", 1, 2);
  metrics.add("accuracy", 0, 1);
  metrics.add("loss", 3);
  metrics.add("loss", 1);
  using Taken = std::vector<std::pair<std::string, double>>;
  EXPECT_EQ(metrics.take(), (Taken{{"accuracy", 2 / 3.}, {"loss", 2}}));
}

TEST(TrainerStateTest, IsWrittenAsTransformersWritesIt) {
  TrainerState state;
  state.global_step = 2;
  state.max_steps = 4;
  state.epoch = 0.5;
  state.log_history = {{1, 0.25, {{"loss", 0.5}, {"grad_norm", 2}}}};
  const auto text = state.to_json();
  EXPECT_EQ(text.back(), '\n');
  EXPECT_EQ(text.find("{\n  \"best_global_step\": null,\n"), 0U);
  EXPECT_NE(
      text.find("    {\n      \"epoch\": 0.25,\n      \"grad_norm\": 2.0,\n"
                "      \"loss\": 0.5,\n      \"step\": 1\n    }"),
      std::string::npos);
  // transformers 5.23 TrainerState, sorted.
  std::vector<std::string> keys;
  const auto parsed = nlohmann::json::parse(text);
  for (const auto& [key, value] : parsed.items()) {
    keys.push_back(key);
  }
  EXPECT_EQ(
      keys,
      (std::vector<std::string>{
          "best_global_step",
          "best_metric",
          "best_model_checkpoint",
          "epoch",
          "eval_steps",
          "global_step",
          "is_hyper_param_search",
          "is_local_process_zero",
          "is_world_process_zero",
          "log_history",
          "logging_steps",
          "max_steps",
          "num_input_tokens_seen",
          "num_train_epochs",
          "save_steps",
          "stateful_callbacks",
          "total_flos",
          "train_batch_size",
          "trial_name",
          "trial_params"}));
}

TEST(TrainingArgumentsTest, ImpossibleValuesNameTheField) {
  const auto error_of = [](auto change) {
    TrainingArguments args;
    change(args);
    try {
      args.validate();
    } catch (const c10::ValueError& error) {
      return std::string(error.what_without_backtrace());
    }
    return std::string("no error");
  };
  EXPECT_EQ(error_of([](auto&) {}), "no error");
  EXPECT_EQ(
      error_of([](auto& args) { args.per_device_train_batch_size = 0; }),
      "[TrainingArguments] per_device_train_batch_size must be positive, found "
      "0");
  EXPECT_NE(
      error_of([](auto& args) {
        args.warmup_steps = 2.5;
      }).find("warmup_steps"),
      std::string::npos);
  EXPECT_NE(
      error_of([](auto& args) {
        args.learning_rate = NAN;
      }).find("learning_rate"),
      std::string::npos);
  EXPECT_NE(
      error_of([](auto& args) {
        args.train_sampling_strategy = "shuffle";
      }).find("random or sequential, found shuffle"),
      std::string::npos);
}

TEST(TrainingArgumentsTest, NumbersThatOverflowNameTheFieldAndTheValue) {
  const auto expect = [](auto field, auto value, const std::string& message) {
    TrainingArguments args;
    args.*field = value;
    try {
      args.validate();
      ADD_FAILURE() << message;
    } catch (const c10::ValueError& error) {
      EXPECT_EQ(
          std::string("[TrainingArguments] ") + message,
          error.what_without_backtrace());
    }
  };
  using Args = TrainingArguments;
  expect(
      &Args::num_train_epochs,
      1e300,
      "num_train_epochs must be at most 1e9, found 1e+300");
  expect(
      &Args::num_train_epochs,
      INFINITY,
      "num_train_epochs must be at most 1e9, found inf");
  expect(
      &Args::max_steps,
      INT64_MAX,
      "max_steps must be at most 1e9, found 9223372036854775807");
  expect(
      &Args::gradient_accumulation_steps,
      INT64_MAX,
      "gradient_accumulation_steps must be below 2^31, found "
      "9223372036854775807");
  for (const auto field :
       {&Args::per_device_train_batch_size,
        &Args::per_device_eval_batch_size}) {
    Args args;
    args.*field = int64_t{1} << 31;
    EXPECT_THROW(args.validate(), c10::ValueError);
  }
  for (const auto field :
       {&Args::warmup_steps,
        &Args::logging_steps,
        &Args::eval_steps,
        &Args::save_steps,
        &Args::adam_epsilon,
        &Args::max_grad_norm,
        &Args::weight_decay,
        &Args::loraplus_lr_ratio}) {
    for (const double value : {double{INFINITY}, double{NAN}}) {
      Args args;
      args.*field = value;
      EXPECT_THROW(args.validate(), c10::ValueError);
    }
  }
}

} // namespace
} // namespace torchlora::train
