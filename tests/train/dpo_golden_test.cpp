#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/models/gemma4/chat_format.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/nn/compute.h>
#include <torchlora/train/dpo.h>

#include "device/device.h"

namespace torchlora::train {
namespace {
namespace fs = std::filesystem;

const fs::path kData = fs::path(TORCHLORA_TEST_DATA) / "dpo";

/// Keeps the gradients of the first step under PEFT's names.
struct FirstGradients : TrainerCallback {
  void on_pre_optimizer_step(Trainer& trainer) override {
    if (trainer.state().global_step == 0) {
      for (const auto& item : trainer.peft_model().state_dict()) {
        gradients[item.key()] = item.value().grad().clone();
      }
    }
  }
  std::map<std::string, at::Tensor> gradients;
};

/// Records means of the means of micro-batches, as TRL does. `DpoTrainer`
/// weighs these by their pairs and tokens.
class TrlMeans : public DpoTrainer {
 public:
  using DpoTrainer::DpoTrainer;

 protected:
  at::Tensor compute_loss(
      const std::vector<int64_t>& indices,
      bool training,
      Metrics& metrics) override {
    Metrics own;
    auto loss = DpoTrainer::compute_loss(indices, training, own);
    for (const auto& [name, value] : own.take()) {
      if (name == "num_tokens") {
        metrics.set(name, value);
      } else {
        metrics.add(name, value);
      }
    }
    return loss;
  }
};

struct GoldenRun {
  explicit GoldenRun(const std::string& name) : folder(kData / name) {
    std::ifstream(folder / "golden.json") >> golden;
    const auto& args = golden["args"];
    config.max_steps = args["steps"];
    config.per_device_train_batch_size = args["batch_size"];
    config.gradient_accumulation_steps = args["grad_accum"];
    config.learning_rate = args["lr"];
    config.lr_scheduler_type = args["lr_scheduler_type"];
    config.warmup_steps = args["warmup_steps"];
    config.weight_decay = args["weight_decay"];
    config.max_grad_norm = args["max_grad_norm"];
    config.max_length = args["max_length"].get<int64_t>();
    config.seed = args["seed"];
    config.train_sampling_strategy = args["order"];
    config.beta = args["beta"];
    config.logging_steps = 1;
    config.reference = "base";
  }
  PeftModel adapt() {
    return PeftModel::from_pretrained(
        *model,
        folder / "init_adapter",
        "default",
        LoadOptions().is_trainable(true));
  }
  TrlMeans trainer(PeftModel& peft) {
    return TrlMeans(
        *model,
        peft,
        tokenizer,
        config,
        load_preference_dataset(folder / "pairs.jsonl"),
        {},
        &chat_format);
  }
  fs::path folder;
  nlohmann::json golden;
  DpoConfig config;
  gemma4::Gemma4ForCausalLM model =
      gemma4::from_pretrained(kData / "model", {.device = test::test_device()});
  Tokenizer tokenizer = Tokenizer::from_pretrained(kData / "model");
  gemma4::ChatFormat chat_format;
};

class DpoGolden : public testing::TestWithParam<const char*> {};

TEST_P(DpoGolden, EveryStepEqualsTrl) {
  GoldenRun run(GetParam());
  auto peft = run.adapt();
  auto trainer = run.trainer(peft);
  const auto first = std::make_shared<FirstGradients>();
  trainer.add_callback(first);

  const auto& examples = trainer.train_dataset().examples;
  for (size_t i = 0; i < run.golden["examples"].size(); ++i) {
    const auto& e = run.golden["examples"][i];
    EXPECT_EQ(
        examples[i].prompt_ids, e["prompt_ids"].get<std::vector<int64_t>>());
    EXPECT_EQ(
        examples[i].chosen_ids, e["chosen_ids"].get<std::vector<int64_t>>());
    EXPECT_EQ(
        examples[i].rejected_ids,
        e["rejected_ids"].get<std::vector<int64_t>>());
  }

  trainer.train();
  const auto& history = trainer.state().log_history;
  const auto& steps = run.golden["steps"];
  ASSERT_EQ(history.size(), steps.size() + 1); // and the summary
  for (size_t i = 0; i < steps.size(); ++i) {
    const auto expect = [&](const char* name, double tolerance) {
      EXPECT_NEAR(history[i].at(name), steps[i][name].get<double>(), tolerance)
          << name << " of step " << i + 1;
    };
    expect("loss", 1e-4);
    expect("grad_norm", 1e-2 * steps[i]["grad_norm"].get<double>());
    expect("learning_rate", 1e-12);
    for (const auto* name :
         {"rewards/chosen",
          "rewards/rejected",
          "rewards/margins",
          "rewards/accuracies",
          "logps/chosen",
          "logps/rejected",
          "logits/chosen",
          "logits/rejected",
          "mean_token_accuracy",
          "entropy"}) {
      expect(name, 1e-3);
    }
    expect("num_tokens", 0);
    EXPECT_NEAR(history[i].epoch, steps[i]["epoch"].get<double>(), 1e-9);
  }

  const io::SafetensorsFile gradients(run.folder / "grads_step1.safetensors");
  ASSERT_EQ(gradients.keys().size(), first->gradients.size());
  for (const auto& key : gradients.keys()) {
    const auto expected = test::on_device(gradients.tensor(key));
    EXPECT_LE(
        (first->gradients.at(key) - expected).abs().max().item<double>(),
        1e-3 * expected.abs().max().item<double>())
        << key;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Trl,
    DpoGolden,
    testing::Values("nonzero_b", "short_window"));

TEST(DpoReference, AnAdapterThatChangesTheModelIsComparedWithItself) {
  GoldenRun run("nonzero_b");
  run.config.reference = "auto";
  run.config.max_steps = 2;
  auto peft = run.adapt();
  auto trainer = run.trainer(peft);
  EXPECT_EQ(trainer.reference(), "initial_adapter");
  EXPECT_EQ(peft.adapter_names(), (std::vector<std::string>{"default", "ref"}));
  const auto reference =
      peft.state_dict("ref")
          ["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"]
              .clone();
  trainer.train();
  const auto& history = trainer.state().log_history;
  EXPECT_NEAR(history[0].at("loss"), std::log(2.0), 1e-6);
  EXPECT_NE(history[1].at("loss"), history[0].at("loss"));
  EXPECT_TRUE(torch::equal(
      peft.state_dict("ref")
          ["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"],
      reference));
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"default"});
  for (const auto& item : peft.state_dict("ref")) {
    EXPECT_FALSE(item.value().requires_grad());
  }
}

/// Trains a fresh adapter by the same eight pairs in every step and returns the
/// loss of each.
std::vector<double> losses_of(
    const fs::path& checkpoint,
    gemma4::LoadOptions options) {
  options.device = test::test_device();
  GoldenRun run("nonzero_b");
  run.model = gemma4::from_pretrained(checkpoint, options);
  run.config.max_steps = 8;
  run.config.per_device_train_batch_size = 8;
  run.config.learning_rate = 1e-4;
  run.config.lr_scheduler_type = "constant";
  auto pairs = load_preference_dataset(run.folder / "pairs.jsonl");
  pairs.resize(8);
  torch::manual_seed(0);
  auto peft = get_peft_model(
      *run.model,
      LoraConfig(8).lora_alpha(16).target_modules(
          {"q_proj",
           "k_proj",
           "v_proj",
           "o_proj",
           "gate_proj",
           "up_proj",
           "down_proj"}));
  DpoTrainer trainer(
      *run.model, peft, run.tokenizer, run.config, pairs, {}, &run.chat_format);
  trainer.train();
  std::vector<double> losses;
  for (const auto& record : trainer.state().log_history) {
    if (record.find("loss")) {
      losses.push_back(record.at("loss"));
    }
  }
  return losses;
}

// Each step changes the outputs by less than the rounding of bf16.
TEST(DpoBf16Checkpoint, LearnsAsItDoesInFp32OnEitherRoute) {
  const auto folder =
      fs::path(testing::TempDir()) / "torchlora" / "bf16_checkpoint";
  fs::create_directories(folder);
  fs::copy_file(
      kData / "model" / "config.json",
      folder / "config.json",
      fs::copy_options::overwrite_existing);
  const io::SafetensorsFile file(kData / "model" / "model.safetensors");
  NamedTensors tensors;
  for (const auto& key : file.keys()) {
    tensors.emplace_back(key, file.tensor(key).to(at::kBFloat16));
  }
  io::save_safetensors(folder / "model.safetensors", tensors);

  const auto exact = losses_of(folder, {at::kFloat});
  ASSERT_EQ(exact.size(), 8U);
  EXPECT_GE(std::log(2.0) - exact.back(), 0.1);
  for (const auto route :
       {nn::ComputeRoute::kNative, nn::ComputeRoute::kUpcast}) {
    nn::set_compute_route(route);
    const auto losses = losses_of(folder, {});
    nn::set_compute_route(std::nullopt);
    ASSERT_EQ(losses.size(), exact.size());
    EXPECT_NEAR(losses[0], std::log(2.0), 1e-6);
    for (size_t i = 1; i < losses.size(); ++i) {
      const double fall = std::log(2.0) - exact[i];
      EXPECT_NEAR(losses[i], exact[i], (i < 7 ? 0.1 : 0.05) * fall)
          << (route == nn::ComputeRoute::kNative ? "native" : "upcast")
          << ", step " << i + 1;
    }
  }
}

} // namespace
} // namespace torchlora::train
