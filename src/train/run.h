#pragma once

#include <atomic>
#include <chrono>

#include <torch/optim/adamw.h>

#include <torchlora/train/schedule.h>
#include <torchlora/train/trainer.h>

namespace torchlora::train {

/// The state of a run that is not in `TrainerState`: it exists while
/// `Trainer::train` runs and is not saved as JSON.
struct Trainer::Run {
  std::unique_ptr<torch::optim::AdamW> optimizer;
  std::vector<double> peak_learning_rates;
  LrSchedule schedule;
  const std::atomic<bool>* stop = nullptr;
  bool interrupted = false;
  int64_t batches_per_epoch = 0;

  Metrics metrics;
  /// The values of the last step; the norm stays on its device.
  Tensor grad_norm;
  double learning_rate = 0;
  /// The losses since the last record, summed over steps on their device (fp64,
  /// undefined: none), and the sum of those before.
  Tensor loss_sum;
  double total_loss = 0;
  int64_t last_checked_step = 0, last_logged_step = 0, last_saved_step = -1;
  std::chrono::steady_clock::time_point started =
      std::chrono::steady_clock::now();

  bool should_stop() const {
    return stop && stop->load(std::memory_order_relaxed);
  }
};

} // namespace torchlora::train
