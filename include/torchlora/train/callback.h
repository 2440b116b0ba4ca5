#pragma once

#include <torchlora/train/state.h>

namespace torchlora::train {

class Trainer;

/// An observer of a running trainer: for progress bars, other logs or access to
/// the gradients. transformers' `TrainerCallback`. The trainer calls its
/// callbacks in the order in which they were added, and `trainer.state()` is up
/// to date in every call.
class TORCHLORA_API TrainerCallback {
 public:
  virtual ~TrainerCallback();

  /// The trainer calls this before the first step.
  virtual void on_train_begin(Trainer& /*trainer*/) {}
  /// The trainer calls this before the first micro-batch of each optimizer
  /// step.
  virtual void on_step_begin(Trainer& /*trainer*/) {}
  /// The trainer calls this after the backward pass of each micro-batch.
  /// `micro_step` counts the micro-batches of one optimizer step from 1 to
  /// `num_micro_steps`.
  virtual void on_substep_end(
      Trainer& /*trainer*/,
      int64_t /*micro_step*/,
      int64_t /*num_micro_steps*/) {}
  /// The trainer calls this when the gradients of the next optimizer step
  /// (`state().global_step` + 1) are complete and not clipped yet.
  virtual void on_pre_optimizer_step(Trainer& /*trainer*/) {}
  /// The trainer calls this after each optimizer step.
  virtual void on_step_end(Trainer& /*trainer*/) {}
  /// The trainer calls this after it has added `record` to the log.
  virtual void on_log(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// The trainer calls this after each batch of an evaluation. `batch` counts
  /// from 1 to `num_batches`.
  virtual void on_prediction_step(
      Trainer& /*trainer*/,
      int64_t /*batch*/,
      int64_t /*num_batches*/) {}
  /// The trainer calls this after an evaluation. `record` holds the results.
  virtual void on_evaluate(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// The trainer calls this after it has written a checkpoint to `directory`.
  virtual void on_save(
      Trainer& /*trainer*/,
      const std::filesystem::path& /*directory*/) {}
  /// The trainer calls this once at the end of training, also if the run was
  /// interrupted.
  virtual void on_train_end(Trainer& /*trainer*/) {}
};

} // namespace torchlora::train
