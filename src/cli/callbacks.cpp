#include "cli/callbacks.h"

#include <fmt/format.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/train/trainer.h>

namespace torchlora::cli {

void ProgressCallback::on_train_begin(train::Trainer& trainer) {
  const train::TrainingArguments& args = trainer.args();
  progress_->line(fmt::format(
      "training: {} examples, {} steps of {} x {} examples",
      trainer.num_train_examples(),
      trainer.state().max_steps,
      args.gradient_accumulation_steps,
      args.per_device_train_batch_size));
}

void ProgressCallback::on_step_end(train::Trainer& trainer) {
  progress_->step(trainer.state().global_step, trainer.state().max_steps);
}

void ProgressCallback::on_log(
    train::Trainer& /*trainer*/,
    const train::LogRecord& record) {
  Progress::Metrics metrics = record.metrics;
  metrics.emplace_back("epoch", record.epoch);
  progress_->metrics(metrics);
}

void ProgressCallback::on_evaluate(
    train::Trainer& /*trainer*/,
    const train::LogRecord& record) {
  evaluations_.push_back(record);
}

void ProgressCallback::on_prediction_step(
    train::Trainer& /*trainer*/,
    int64_t batch,
    int64_t num_batches) {
  progress_->activity(fmt::format("evaluating {}/{}", batch, num_batches));
}

void ProgressCallback::on_save(
    train::Trainer& /*trainer*/,
    const std::filesystem::path& directory) {
  progress_->line("saved " + directory.string());
}

void GradientDump::on_pre_optimizer_step(train::Trainer& trainer) {
  if (trainer.state().global_step + 1 != step_) {
    return;
  }
  NamedTensors gradients;
  for (const auto& item : trainer.peft_model().state_dict()) {
    if (item.value().grad().defined()) { // MiCA's B has none
      gradients.emplace_back(item.key(), item.value().grad());
    }
  }
  io::save_safetensors(
      directory_ / ("grads_step" + std::to_string(step_) + ".safetensors"),
      gradients);
}

} // namespace torchlora::cli
