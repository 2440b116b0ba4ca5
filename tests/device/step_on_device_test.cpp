// A training step does not wait for its device. Runs with
// TORCHLORA_TEST_DEVICE=fake, which counts the copies to the host.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/model.h>
#include <torchlora/models/gemma4/chat_format.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/tokenizer.h>
#include <torchlora/train/dpo.h>

#include "device/device.h"
#include "device/fake_device.h"

namespace torchlora::train {
namespace {

namespace fs = std::filesystem;

const fs::path kData = fs::path(TORCHLORA_TEST_DATA) / "dpo";

/// The copies to the host of each optimizer step.
struct CountsCopies : TrainerCallback {
  void on_step_begin(Trainer&) override {
    before = test::host_copies().to_host;
  }
  void on_step_end(Trainer&) override {
    of_steps.push_back(test::host_copies().to_host - before);
  }
  int64_t before = 0;
  std::vector<int64_t> of_steps;
};

TEST(StepOnDevice, CopiesNothingToTheHost) {
  if (!test::test_device().is_hpu()) {
    GTEST_SKIP() << "TORCHLORA_TEST_DEVICE=fake counts copies";
  }
  gemma4::Gemma4ForCausalLM model =
      gemma4::from_pretrained(kData / "model", {.device = test::test_device()});
  auto peft = PeftModel::from_pretrained(
      *model,
      kData / "nonzero_b" / "init_adapter",
      "default",
      LoadOptions().is_trainable(true));
  DpoConfig config;
  config.max_steps = 6;
  config.logging_steps = 3;
  config.per_device_train_batch_size = 2;
  config.gradient_accumulation_steps = 2;
  config.reference = "base";
  const gemma4::ChatFormat chat_format;
  DpoTrainer trainer(
      *model,
      peft,
      Tokenizer::from_pretrained(kData / "model"),
      config,
      load_preference_dataset(kData / "nonzero_b" / "pairs.jsonl"),
      {},
      &chat_format);
  const auto counts = std::make_shared<CountsCopies>();
  trainer.add_callback(counts);
  const auto before = test::host_copies().to_host;
  trainer.train();
  EXPECT_EQ(counts->of_steps, std::vector<int64_t>(6));
  // One copy of all values for a record, one to look whether they are finite,
  // twice, and at the end.
  EXPECT_LE(test::host_copies().to_host - before, 8);
}

TEST(StepOnDevice, ACheckpointGoesToTheDeviceOnce) {
  if (!test::test_device().is_hpu()) {
    GTEST_SKIP() << "TORCHLORA_TEST_DEVICE=fake counts copies";
  }
  const auto before = test::host_copies();
  const auto model =
      gemma4::from_pretrained(kData / "model", {.device = test::test_device()});
  const auto after = test::host_copies();
  int64_t bytes = 0;
  for (const auto& parameter : model->parameters()) {
    EXPECT_EQ(parameter.device(), test::test_device());
    bytes += static_cast<int64_t>(parameter.nbytes());
  }
  EXPECT_GE(after.bytes_to_device - before.bytes_to_device, bytes);
  EXPECT_EQ(after.to_host - before.to_host, 0);
}

} // namespace
} // namespace torchlora::train
