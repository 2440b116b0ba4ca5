#include "cli/callbacks.h"

#include <fmt/format.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/train/trainer.h>

namespace torchlora::cli {
namespace {

constexpr const char* kRow = "{:>7} {:>9} {:>9} {:>10} {:>14} {:>9}";

} // namespace

void ProgressCallback::on_train_begin(train::Trainer& trainer) {
  const train::TrainingArguments& args = trainer.args();
  progress_->start(trainer.state().max_steps);
  progress_->line(fmt::format(
      "training: {} examples, {} steps of {} x {} examples",
      trainer.num_train_examples(),
      trainer.state().max_steps,
      args.gradient_accumulation_steps,
      args.per_device_train_batch_size));
}

void ProgressCallback::on_step_begin(train::Trainer& /*trainer*/) {
  progress_->begin_step();
}

void ProgressCallback::on_substep_end(
    train::Trainer& /*trainer*/,
    int64_t micro_step,
    int64_t num_micro_steps) {
  if (micro_step < num_micro_steps) {
    progress_->activity(
        fmt::format("micro-batch {}/{}", micro_step, num_micro_steps));
  }
}

void ProgressCallback::on_step_end(train::Trainer& trainer) {
  progress_->step(trainer.state().global_step, trainer.state().max_steps);
}

void ProgressCallback::on_log(
    train::Trainer& /*trainer*/,
    const train::LogRecord& record) {
  if (const double* seconds = record.find("train_runtime")) {
    progress_->line(fmt::format(
        "trained {} steps in {}, mean loss {:.4f}",
        record.step,
        clock_time(*seconds),
        record.at("train_loss")));
  } else if (record.find("loss")) {
    print_step(record);
  }
}

void ProgressCallback::print_header() {
  if (!has_header_) {
    has_header_ = true;
    progress_->line(fmt::format(
        kRow,
        "step",
        "loss",
        "accuracy",
        "margin",
        "learning rate",
        "tokens/s"));
  }
}

void ProgressCallback::print_step(const train::LogRecord& record) {
  print_header();
  const double tokens = record.at("num_tokens") - tokens_;
  const double seconds = progress_->seconds() - seconds_;
  tokens_ += tokens;
  seconds_ += seconds;
  progress_->line(fmt::format(
      kRow,
      record.step,
      fmt::format("{:.4f}", record.at("loss")),
      fmt::format("{:.3f}", record.at("rewards/accuracies")),
      fmt::format("{:.4g}", record.at("rewards/margins")),
      fmt::format("{:.3g}", record.at("learning_rate")),
      fmt::format("{:.0f}", seconds > 0 ? tokens / seconds : 0)));
}

void ProgressCallback::on_evaluate(
    train::Trainer& /*trainer*/,
    const train::LogRecord& record) {
  evaluations_.push_back(record);
  print_header();
  progress_->line(fmt::format(
      "{:>7} {:>9.4f} {:>9.3f} {:>10.4g}  held out, {}",
      record.step,
      record.at("eval_loss"),
      record.at("eval_rewards/accuracies"),
      record.at("eval_rewards/margins"),
      clock_time(record.at("eval_runtime"))));
}

void ProgressCallback::on_prediction_step(
    train::Trainer& /*trainer*/,
    int64_t batch,
    int64_t num_batches) {
  progress_->activity(
      batch < num_batches ? fmt::format("evaluating {}/{}", batch, num_batches)
                          : "");
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
