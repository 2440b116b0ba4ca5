#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <vector>

#include <torch/optim/adamw.h>

#include <torchlora/train/schedule.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

/// What exists while `Trainer::train` runs.
struct Trainer::Run {
  std::unique_ptr<torch::optim::AdamW> optimizer;
  std::vector<double> peak_learning_rates;
  LrSchedule schedule;
  const std::atomic<bool>* stop = nullptr;
  bool interrupted = false;
  int64_t batches_per_epoch = 0;

  Metrics metrics;
  /// Of the last step.
  double grad_norm = 0, learning_rate = 0;
  /// Sums over steps: since the last record, and of all steps.
  double loss_sum = 0, total_loss = 0;
  int64_t last_logged_step = 0, last_saved_step = -1;
  std::chrono::steady_clock::time_point started =
      std::chrono::steady_clock::now();

  bool should_stop() const {
    return stop && stop->load(std::memory_order_relaxed);
  }
};

} // namespace torchlora::train
