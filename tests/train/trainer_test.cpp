#include <torchlora/train/trainer.h>

#include <fstream>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>

#include "device/device.h"
#include "train/toy_model.h"

namespace torchlora::train {
namespace {
namespace fs = std::filesystem;
using Batches = std::vector<std::vector<int64_t>>;

LoraConfig toy_lora() {
  return LoraConfig(2).target_modules({"proj"});
}

/// Its loss on a micro-batch is the mean of the examples' indices plus what
/// makes every factor get a gradient; its metric "first" is the first index.
class ToyTrainer : public Trainer {
 public:
  ToyTrainer(
      ToyModel& model,
      PeftModel peft,
      TrainingArguments args,
      int64_t num_eval = 0)
      : Trainer(std::move(peft), std::move(args)), toy_(*model) {
    set_num_examples(5, num_eval);
  }

  std::vector<std::vector<int64_t>> batches;
  at::Tensor factor = test::ones({});

 protected:
  at::Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) override {
    double mean = 0;
    for (const auto index : indices) {
      mean += static_cast<double>(index) / static_cast<double>(indices.size());
    }
    metrics.add("first", static_cast<double>(indices.front()));
    if (training) {
      batches.push_back(indices);
    }
    const auto hidden = toy_.hidden_states(test::tensor({{1, 2}}), {});
    return (hidden.sum() * 0.1 + mean - hidden.sum().detach() * 0.1) * factor;
  }

 private:
  ToyModelImpl& toy_;
};

class TrainerLoop : public testing::Test {
 protected:
  TrainerLoop() {
    args.output_dir = fs::path(testing::TempDir()) /
        testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(args.output_dir);
    args.per_device_train_batch_size = 2;
    args.gradient_accumulation_steps = 2;
    args.num_train_epochs = 2;
    args.learning_rate = 0.1;
    args.logging_steps = 1;
    args.train_sampling_strategy = "sequential";
  }

  TrainingArguments args;
  ToyModel model;
  PeftModel peft = get_peft_model(*model, toy_lora());
};

TEST_F(TrainerLoop, WindowsDoNotCrossEpochsAndDivideByTheirSize) {
  ToyTrainer trainer(model, peft, args);
  const auto output = trainer.train();
  EXPECT_EQ(output.global_step, 4);
  EXPECT_FALSE(output.interrupted);
  EXPECT_EQ(
      trainer.batches, (Batches{{0, 1}, {2, 3}, {4}, {0, 1}, {2, 3}, {4}}));
  const auto& history = trainer.state().log_history;
  ASSERT_EQ(history.size(), 5U);
  EXPECT_NEAR(history[0].at("loss"), (0.5 + 2.5) / 2, 1e-6);
  EXPECT_NEAR(history[1].at("loss"), 4, 1e-6);
  EXPECT_NEAR(history[0].epoch, 2 / 3., 1e-12);
  EXPECT_EQ(history[1].epoch, 1);
  EXPECT_EQ(history[0].at("first"), 1);
  EXPECT_NEAR(history[1].at("learning_rate"), 0.075, 1e-12);
  EXPECT_NEAR(history[4].at("train_loss"), (1.5 + 4 + 1.5 + 4) / 4, 1e-6);
  EXPECT_EQ(output.training_loss, history[4].at("train_loss"));
}

TEST_F(TrainerLoop, RecordsAverageTheStepsSinceTheLast) {
  args.logging_steps = 3;
  ToyTrainer trainer(model, peft, args);
  trainer.train();
  const auto& history = trainer.state().log_history;
  ASSERT_EQ(history.size(), 2U);
  EXPECT_EQ(history[0].step, 3);
  EXPECT_NEAR(history[0].at("loss"), (1.5 + 4 + 1.5) / 3, 1e-6);
  // Five micro-batches count the same, however large.
  EXPECT_NEAR(history[0].at("first"), (0 + 2 + 4 + 0 + 2) / 5., 1e-12);
  EXPECT_EQ(history[1].at("first"), 4);
}

// Where every gradient is far from zero a step of Adam is the learning rate.
TEST_F(TrainerLoop, LoraPlusScalesTheRateOfBThroughTheSchedule) {
  args.loraplus_lr_ratio = 4;
  args.learning_rate = 0.01;
  args.max_steps = 2;
  args.per_device_train_batch_size = 5;
  struct Steps : TrainerCallback {
    void on_pre_optimizer_step(Trainer& trainer) override {
      before.clear();
      for (const auto& item : trainer.trainable_parameters()) {
        before.push_back(item.second.detach().clone());
      }
    }
    void on_step_end(Trainer& trainer) override {
      std::vector<double> sizes;
      for (size_t i = 0; i < before.size(); ++i) {
        sizes.push_back((trainer.trainable_parameters()[i].second - before[i])
                            .abs()
                            .max()
                            .item<double>());
      }
      steps.push_back(sizes);
    }
    std::vector<at::Tensor> before;
    std::vector<std::vector<double>> steps;
  };
  for (auto& item : peft.layers()) {
    torch::NoGradGuard no_grad;
    item.second->find_adapter("default")->lora_B->weight.fill_(0.3);
  }
  const auto steps = std::make_shared<Steps>();
  ToyTrainer trainer(model, peft, args);
  trainer.add_callback(steps);
  trainer.train();
  ASSERT_EQ(
      trainer.trainable_parameters()[0].first, "proj.lora_A.default.weight");
  ASSERT_EQ(steps->steps.size(), 2U);
  EXPECT_NEAR(steps->steps[0][0], 0.01, 1e-4);
  EXPECT_NEAR(steps->steps[0][1], 0.04, 4e-4);
  EXPECT_NEAR(steps->steps[1][0], 0.005, 1e-3);
  EXPECT_NEAR(steps->steps[1][1], 0.02, 4e-3);
  EXPECT_NEAR(trainer.state().log_history[1].at("learning_rate"), 0.005, 1e-12);
}

TEST_F(TrainerLoop, LoraPlusOptionsAreNotMixedUp) {
  const auto refuses =
      [&](double ratio, double decay, double own_decay, double embedding) {
        auto bad = args;
        bad.loraplus_lr_ratio = ratio;
        bad.weight_decay = decay;
        bad.loraplus_weight_decay = own_decay;
        bad.loraplus_lr_embedding = embedding;
        EXPECT_THROW(bad.validate(), c10::ValueError);
      };
  refuses(-1, 0, 0, 1e-6);
  refuses(4, 0.1, 0, 1e-6);
  refuses(0, 0, 0.1, 1e-6);
  refuses(0, 0, 0, 1e-5);
  refuses(4, 0, -1, 1e-6);
}

// torch.randperm(5) of a generator seeded 42 and 43.
TEST_F(TrainerLoop, RandomOrderIsTrls) {
  args.train_sampling_strategy = "random";
  args.per_device_train_batch_size = 5;
  args.gradient_accumulation_steps = 1;
  ToyTrainer trainer(model, peft, args);
  trainer.train();
  EXPECT_EQ(trainer.batches, (Batches{{2, 4, 3, 0, 1}, {3, 1, 4, 2, 0}}));
}

TEST_F(TrainerLoop, EvaluatesWeightedByExamplesAndAtTheEnd) {
  args.eval_steps = 3;
  args.eval_on_start = true;
  args.per_device_eval_batch_size = 2;
  ToyTrainer trainer(model, peft, args, /*num_eval=*/3);
  trainer.train();
  std::vector<int64_t> steps;
  for (const auto& record : trainer.state().log_history) {
    if (const auto* loss = record.find("eval_loss")) {
      steps.push_back(record.step);
      EXPECT_NEAR(*loss, (0.5 * 2 + 2 * 1) / 3, 1e-6);
      EXPECT_EQ(record.at("eval_first"), 1);
      EXPECT_GT(record.at("eval_samples_per_second"), 0);
    }
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{0, 3, 4}));
  EXPECT_TRUE(model->is_training());
}

TEST_F(TrainerLoop, WritesLogStateAndCheckpoints) {
  args.save_steps = 3;
  ToyTrainer trainer(model, peft, args);
  trainer.train();
  std::ifstream log(args.output_dir / "log.jsonl");
  size_t lines = 0;
  for (std::string line; std::getline(log, line); ++lines) {
    EXPECT_EQ(line, trainer.state().log_history.at(lines).to_json());
  }
  EXPECT_EQ(lines, 5U);
  EXPECT_TRUE(fs::exists(args.output_dir / "trainer_state.json"));
  std::set<std::string> folders;
  for (const auto& entry : fs::directory_iterator(args.output_dir)) {
    if (entry.is_directory()) {
      folders.insert(entry.path().filename());
    }
  }
  EXPECT_EQ(folders, (std::set<std::string>{"checkpoint-3", "checkpoint-4"}));
  const auto checkpoint = args.output_dir / "checkpoint-4";
  for (const auto* file :
       {"adapter_config.json",
        "adapter_model.safetensors",
        "trainer_state.json"}) {
    EXPECT_TRUE(fs::exists(checkpoint / file)) << file;
  }
  const io::SafetensorsFile optimizer(checkpoint / "optimizer.safetensors");
  EXPECT_EQ(optimizer.keys().size(), 6U);
  EXPECT_EQ(
      optimizer.tensor("proj.lora_A.default.weight.step").item<int64_t>(), 4);
}

TEST_F(TrainerLoop, StopSavesTheLastWholeStep) {
  struct StopInStepThree : TrainerCallback {
    void on_substep_end(Trainer& trainer, int64_t micro_step, int64_t)
        override {
      stop = trainer.state().global_step == 2 && micro_step == 1;
    }
    void on_save(Trainer&, const fs::path& directory) override {
      saved = directory.filename();
    }
    std::atomic<bool> stop = false;
    std::string saved;
  };
  const auto callback = std::make_shared<StopInStepThree>();
  ToyTrainer trainer(model, peft, args);
  trainer.add_callback(callback);
  const auto output = trainer.train(&callback->stop);
  EXPECT_TRUE(output.interrupted);
  EXPECT_EQ(output.global_step, 2);
  EXPECT_EQ(callback->saved, "checkpoint-2");
  EXPECT_FALSE(peft.trainable_parameters()[0].grad().defined());
}

TEST_F(TrainerLoop, StopEndsAnEvaluation) {
  struct StopInEvaluation : TrainerCallback {
    void on_prediction_step(Trainer&, int64_t batch, int64_t) override {
      num_batches = batch;
      stop = true;
    }
    std::atomic<bool> stop = false;
    int64_t num_batches = 0;
  };
  args.per_device_eval_batch_size = 1;
  const auto callback = std::make_shared<StopInEvaluation>();
  ToyTrainer trainer(model, peft, args, /*num_eval=*/5);
  trainer.add_callback(callback);
  const auto output = trainer.train(&callback->stop);
  EXPECT_TRUE(output.interrupted);
  EXPECT_EQ(output.global_step, 1);
  EXPECT_EQ(callback->num_batches, 1);
  EXPECT_EQ(trainer.state().log_history.size(), 1U);
  EXPECT_TRUE(model->is_training());
}

template <class Error>
std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what_without_backtrace();
  }
  return "no error";
}

TEST_F(TrainerLoop, ATensorWithoutGradientIsNamed) {
  ToyModel other;
  auto adapted =
      get_peft_model(*other, LoraConfig(2).target_modules({"proj", "unused"}));
  ToyTrainer trainer(other, adapted, args);
  const auto error = error_of<c10::Error>([&] { trainer.train(); });
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "unused.lora_A.default.weight", error);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "2 trainable tensors get no gradient", error);
}

// As one that was loaded with LoadOptions::is_trainable.
TEST_F(TrainerLoop, ATrainableAdapterThatIsNotActiveNeedsNoGradient) {
  peft.add_adapter("inactive", toy_lora());
  peft.set_requires_grad({"inactive"});
  ToyTrainer trainer(model, peft, args);
  EXPECT_EQ(trainer.trainable_parameters().size(), 4U);
  const auto before = peft.state_dict("inactive").values()[0].clone();
  EXPECT_NO_THROW(trainer.train());
  EXPECT_TRUE(torch::equal(peft.state_dict("inactive").values()[0], before));
}

TEST_F(TrainerLoop, ALossIsOneNumberOfAnySizes) {
  ToyTrainer trainer(model, peft, args);
  trainer.factor = test::ones({1});
  EXPECT_NO_THROW(trainer.train());
  ToyTrainer other(model, peft, args);
  other.factor = test::ones({2});
  EXPECT_THROW(other.train(), c10::Error);
}

TEST_F(TrainerLoop, ANonFiniteLossStopsAndNamesTheWeights) {
  ToyTrainer trainer(model, peft, args);
  trainer.factor = test::full({}, NAN);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      test::test_device().is_cpu() ? "the loss of step 1 is nan"
                                   : "the loss of steps 1 to ",
      error_of<c10::Error>([&] { trainer.train(); }));
  {
    torch::NoGradGuard no_grad;
    model->proj->weight[1][2] = NAN;
  }
  ToyTrainer damaged(model, peft, args);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "the model's weights proj.base_layer.weight have values that "
      "are not finite",
      error_of<DataError>([&] { damaged.train(); }));
}

TEST_F(TrainerLoop, AFrozenAdapterIsRefused) {
  peft.set_adapter(
      std::vector<std::string>{"default"}, /*inference_mode=*/true);
  EXPECT_THROW(ToyTrainer(model, peft, args), c10::ValueError);
}

TEST_F(TrainerLoop, AnUnwritableFolderIsAnErrorBeforeTheFirstStep) {
  std::ofstream(args.output_dir) << "a file";
  ToyTrainer trainer(model, peft, args);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "log.jsonl cannot be written",
      error_of<c10::Error>([&] { trainer.train(); }));
  EXPECT_TRUE(trainer.batches.empty());
}

} // namespace
} // namespace torchlora::train
