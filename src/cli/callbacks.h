#pragma once

#include <memory>

#include <torchlora/train/callback.h>
#include <torchlora/train/state.h>

#include "cli/progress.h"

namespace torchlora::cli {

/// Shows the run in `Progress`, prints its records as columns and keeps those
/// of the evaluations. log.jsonl has the full records.
class ProgressCallback : public train::TrainerCallback {
 public:
  explicit ProgressCallback(std::shared_ptr<Progress> progress)
      : progress_(std::move(progress)) {}

  void on_train_begin(train::Trainer& trainer) override;
  void on_step_begin(train::Trainer& trainer) override;
  void on_substep_end(
      train::Trainer& trainer,
      int64_t micro_step,
      int64_t num_micro_steps) override;
  void on_step_end(train::Trainer& trainer) override;
  void on_log(train::Trainer& trainer, const train::LogRecord& record) override;
  void on_evaluate(train::Trainer& trainer, const train::LogRecord& record)
      override;
  void on_prediction_step(
      train::Trainer& trainer,
      int64_t batch,
      int64_t num_batches) override;
  void on_save(train::Trainer& trainer, const std::filesystem::path& directory)
      override;

  const std::vector<train::LogRecord>& evaluations() const {
    return evaluations_;
  }

 private:
  /// Prints the names of the columns above the first row.
  void print_header();
  void print_step(const train::LogRecord& record);

  std::shared_ptr<Progress> progress_;
  std::vector<train::LogRecord> evaluations_;
  bool has_header_ = false;
  /// Tokens and seconds of all steps up to the last record.
  double tokens_ = 0, seconds_ = 0;
};

/// Writes the gradients of one step before clipping to
/// `directory`/grads_step<N>.safetensors, with the names of the adapter file.
class GradientDump : public train::TrainerCallback {
 public:
  GradientDump(int64_t step, std::filesystem::path directory)
      : step_(step), directory_(std::move(directory)) {}

  void on_pre_optimizer_step(train::Trainer& trainer) override;

 private:
  int64_t step_;
  std::filesystem::path directory_;
};

} // namespace torchlora::cli
