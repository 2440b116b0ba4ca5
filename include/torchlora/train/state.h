#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::train {

/// One entry of `log_history`.
struct TORCHLORA_API LogRecord {
  /// `TrainerState::global_step` when the record was made.
  int64_t step = 0;
  /// The number of epochs done, with fraction.
  double epoch = 0;
  /// Values by TRL's names, in the order in which they were recorded.
  std::vector<std::pair<std::string, double>> metrics;

  /// Returns the metric, or nullptr if the record does not have it.
  const double* find(std::string_view name) const;
  /// Returns the metric. ValueError if the record does not have it.
  double at(std::string_view name) const;
  /// Returns {"loss": 0.69, …, "epoch": 0.1, "step": 1} on one line with all
  /// digits.
  std::string to_json() const;
};

/// Collects the metrics of micro-batches between two records. Names keep the
/// order in which they first appeared.
class TORCHLORA_API Metrics {
 public:
  /// Adds the value of one micro-batch. The record has the unweighted mean.
  void add(std::string_view name, double value);
  /// Sets a running count such as `num_tokens`. The record has the last value.
  void set(std::string_view name, double value);

  /// Returns whether nothing was collected since the last `take`.
  bool empty() const {
    return entries_.empty();
  }
  /// Returns the means and last values, each name after `prefix`, and forgets
  /// them.
  std::vector<std::pair<std::string, double>> take(
      std::string_view prefix = "");

 private:
  struct Entry {
    std::string name;
    double sum = 0;
    int64_t count = 0;
  };
  Entry& entry(std::string_view name);
  std::vector<Entry> entries_;
};

/// The progress of a run. Its file is transformers' `trainer_state.json`, in
/// which `total_flos` is 0, because floating-point operations are not counted.
struct TORCHLORA_API TrainerState {
  /// The number of optimizer steps done.
  int64_t global_step = 0;
  /// The number of epochs done, with fraction.
  double epoch = 0;
  /// The number of optimizer steps of the whole run.
  int64_t max_steps = 0;
  /// The number of epochs of the whole run, rounded up.
  int64_t num_train_epochs = 0;
  /// @{
  /// The arguments of these names, resolved to whole steps.
  int64_t logging_steps = 0, eval_steps = 0, save_steps = 0;
  /// @}

  /// `per_device_train_batch_size`.
  int64_t train_batch_size = 0;
  std::vector<LogRecord> log_history;

  /// Returns the JSON with sorted keys, two spaces of indentation and a newline
  /// at the end.
  std::string to_json() const;
  /// Writes `to_json()` to `path` atomically.
  void save_to_json(const std::filesystem::path& path) const;
};

/// The result of `Trainer::train`.
struct TORCHLORA_API TrainOutput {
  /// The number of optimizer steps done.
  int64_t global_step = 0;
  /// The mean loss over the steps.
  double training_loss = 0;
  /// The record that ends the log (train_runtime, train_samples_per_second, …).
  /// Empty if the run was interrupted.
  LogRecord metrics;
  /// Whether the stop flag ended the run. A checkpoint was saved then.
  bool interrupted = false;
};

} // namespace torchlora::train
