#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::train {

/// One entry of `log_history`: metrics by TRL's names in the order in which
/// they were recorded.
struct TORCHLORA_API LogRecord {
  /// `TrainerState::global_step` at that time.
  int64_t step = 0;
  /// Epochs done, with fraction.
  double epoch = 0;
  /// By name.
  std::vector<std::pair<std::string, double>> metrics;

  /// nullptr if there is none of this name.
  const double* find(std::string_view name) const;
  /// ValueError if there is none of this name.
  double at(std::string_view name) const;
  /// {"loss": 0.69, …, "epoch": 0.1, "step": 1} on one line, all digits.
  std::string to_json() const;
};

/// The metrics of the micro-batches since the last record, by name in the
/// order of their first appearance.
class TORCHLORA_API Metrics {
 public:
  /// One micro-batch's value; the record has the unweighted mean.
  void add(std::string_view name, double value);
  /// A running figure (`num_tokens`): the record has the last value.
  void set(std::string_view name, double value);

  /// Whether there is nothing since the last record.
  bool empty() const {
    return entries_.empty();
  }
  /// The means and last values, with `prefix` before each name; forgets them.
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

/// Where a run is. Written as transformers' `trainer_state.json` (floating
/// point operations are not counted: `total_flos` is 0).
struct TORCHLORA_API TrainerState {
  /// Optimizer steps done.
  int64_t global_step = 0;
  /// Epochs done, with fraction.
  double epoch = 0;
  /// Of the run.
  int64_t max_steps = 0;
  /// Rounded up.
  int64_t num_train_epochs = 0;
  /// @{
  /// Resolved to whole steps.
  int64_t logging_steps = 0, eval_steps = 0, save_steps = 0;
  /// @}

  /// `per_device_train_batch_size`.
  int64_t train_batch_size = 0;
  /// All records.
  std::vector<LogRecord> log_history;

  /// Sorted keys, two spaces of indentation, a newline at the end.
  std::string to_json() const;
  /// Writes `to_json` to a file, atomically.
  void save_to_json(const std::filesystem::path& path) const;
};

/// What `Trainer::train` returns.
struct TORCHLORA_API TrainOutput {
  /// Optimizer steps done.
  int64_t global_step = 0;
  /// Mean loss over the steps.
  double training_loss = 0;
  /// The final summary record (train_runtime, train_samples_per_second, …);
  /// empty if interrupted.
  LogRecord metrics;
  /// The stop flag was seen; a checkpoint was saved.
  bool interrupted = false;
};

} // namespace torchlora::train
