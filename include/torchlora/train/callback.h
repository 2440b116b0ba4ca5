#pragma once

#include <torchlora/train/state.h>

namespace torchlora::train {

class Trainer;

/// Watches a running trainer: for progress bars, other logs or access to the
/// gradients. transformers' `TrainerCallback`. The trainer calls its callbacks
/// in the order in which they were added, and `trainer.state()` is up to date
/// in every call.
class TORCHLORA_API TrainerCallback {
 public:
  virtual ~TrainerCallback();

  /// Before the first step.
  virtual void on_train_begin(Trainer& /*trainer*/) {}
  /// After the backward pass of each micro-batch. `micro_step` counts from 1 to
  /// `num_micro_steps` within the step.
  virtual void on_substep_end(
      Trainer& /*trainer*/,
      int64_t /*micro_step*/,
      int64_t /*num_micro_steps*/) {}
  /// When the gradients of step `state().global_step` + 1 are complete and not
  /// clipped yet.
  virtual void on_pre_optimizer_step(Trainer& /*trainer*/) {}
  /// After each optimizer step.
  virtual void on_step_end(Trainer& /*trainer*/) {}
  /// After a record was added to the log.
  virtual void on_log(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// After each batch of an evaluation. `batch` counts from 1 to `num_batches`.
  virtual void on_prediction_step(
      Trainer& /*trainer*/,
      int64_t /*batch*/,
      int64_t /*num_batches*/) {}
  /// After an evaluation, with its record.
  virtual void on_evaluate(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// After a checkpoint was written to `directory`.
  virtual void on_save(
      Trainer& /*trainer*/,
      const std::filesystem::path& /*directory*/) {}
  /// After the last step, also if the run was interrupted.
  virtual void on_train_end(Trainer& /*trainer*/) {}
};

} // namespace torchlora::train
