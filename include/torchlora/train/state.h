#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <torchlora/export.h>
#include <torchlora/types.h>

namespace torchlora::train {

/// One record of the training log, an entry of `TrainerState::log_history`.
struct TORCHLORA_API LogRecord {
  /// The number of optimizer steps that were done when the trainer made the
  /// record.
  int64_t step = 0;
  /// The number of epochs that were done when the trainer made the record, with
  /// fraction.
  double epoch = 0;
  /// Names and values of the metrics, with TRL's names, in the order in which
  /// the trainer recorded them.
  std::vector<std::pair<std::string, double>> metrics;

  /// Returns the value of the metric `name`, or nullptr if the record does not
  /// have it.
  const double* find(std::string_view name) const;
  /// Returns the value of the metric `name`. ValueError if the record does not
  /// have it.
  double at(std::string_view name) const;
  /// Returns the record as JSON on one line, with all digits: {"loss": 0.69, …,
  /// "epoch": 0.1, "step": 1}.
  std::string to_json() const;
};

/// A collector of the metrics of micro-batches between two log records. Names
/// keep the order in which they first appeared. A mean is that of all examples
/// or tokens, however they were divided into micro-batches; TRL averages the
/// means of micro-batches.
class TORCHLORA_API Metrics {
 public:
  /// Adds the value that one micro-batch has for the metric `name`: a mean of
  /// `weight` examples or tokens. `take` returns the weighted mean of all
  /// values.
  void add(std::string_view name, double value, double weight = 1);
  /// Adds a value as a tensor with one number, which stays on its device until
  /// `take`. ValueError for another number of values.
  void add(std::string_view name, const Tensor& value, double weight = 1);
  /// Sets the metric `name` to a running count, such as `num_tokens`. `take`
  /// returns the last value.
  void set(std::string_view name, double value);

  /// Returns whether this object holds no metrics, because none was added since
  /// the last `take`.
  bool empty() const {
    return entries_.empty();
  }
  /// Returns the mean or the last value of every metric, with `prefix` before
  /// its name, and forgets all metrics.
  std::vector<std::pair<std::string, double>> take(
      std::string_view prefix = "");

 private:
  struct Entry {
    std::string name;
    double sum = 0;
    double weight = 0;
    /// The terms that were tensors.
    Tensor device_sum = {};
  };
  Entry& entry(std::string_view name);
  std::vector<Entry> entries_;
};

/// The progress of a training run. `to_json` gives transformers'
/// `trainer_state.json`, in which `total_flos` is 0, because torchlora does not
/// count floating-point operations.
struct TORCHLORA_API TrainerState {
  /// The number of optimizer steps that are done.
  int64_t global_step = 0;
  /// The number of epochs that are done, with fraction.
  double epoch = 0;
  /// The number of optimizer steps of the whole run.
  int64_t max_steps = 0;
  /// The number of epochs of the whole run, rounded up.
  int64_t num_train_epochs = 0;
  /// @{
  /// The intervals between log records, evaluations and checkpoints in whole
  /// steps, where `TrainingArguments` may have a share of all steps.
  int64_t logging_steps = 0, eval_steps = 0, save_steps = 0;
  /// @}

  /// The number of examples per micro-batch: `per_device_train_batch_size`.
  int64_t train_batch_size = 0;
  std::vector<LogRecord> log_history;

  /// Returns the state as JSON with sorted keys, two spaces of indentation and
  /// a newline at the end: the content of `trainer_state.json`.
  std::string to_json() const;
  /// Writes the state as JSON to the file `path`, which appears whole or not at
  /// all.
  void save_to_json(const std::filesystem::path& path) const;
};

/// The result of `Trainer::train`.
struct TORCHLORA_API TrainOutput {
  /// The number of optimizer steps that the run did.
  int64_t global_step = 0;
  /// The mean of the loss over all steps of the run.
  double training_loss = 0;
  /// The last record of the log, with the totals of the run (train_runtime,
  /// train_samples_per_second, …). Empty if the run was interrupted.
  LogRecord metrics;
  /// Whether the `stop` flag of `Trainer::train` ended the run. The trainer has
  /// then saved the last complete step, if there is an `output_dir`.
  bool interrupted = false;
};

} // namespace torchlora::train
