#pragma once

#include <cstdint>
#include <filesystem>

#include <torchlora/export.h>
#include <torchlora/train/state.h>

namespace torchlora::train {

class Trainer;

/// What a program sees of a running trainer: progress bars, other logs,
/// access to the gradients. transformers' `TrainerCallback`; called in the
/// order in which the callbacks were added. `trainer.state()` is up to date
/// in every call.
class TORCHLORA_API TrainerCallback {
 public:
  virtual ~TrainerCallback() = default;

  /// Before the first step.
  virtual void on_train_begin(Trainer& /*trainer*/) {}
  /// A micro-batch is done: number `micro_step` (from 1) of the
  /// `num_micro_steps` of this step.
  virtual void on_substep_end(
      Trainer& /*trainer*/,
      int64_t /*micro_step*/,
      int64_t /*num_micro_steps*/) {}
  /// The gradients of step `state().global_step` + 1 are whole and not yet
  /// clipped.
  virtual void on_pre_optimizer_step(Trainer& /*trainer*/) {}
  /// A step is done.
  virtual void on_step_end(Trainer& /*trainer*/) {}
  /// A record was added to the log.
  virtual void on_log(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// An evaluation has done `batch` (from 1) of `num_batches`.
  virtual void on_prediction_step(
      Trainer& /*trainer*/,
      int64_t /*batch*/,
      int64_t /*num_batches*/) {}
  /// An evaluation is done; its record.
  virtual void on_evaluate(Trainer& /*trainer*/, const LogRecord& /*record*/) {}
  /// A checkpoint is whole on disk.
  virtual void on_save(
      Trainer& /*trainer*/,
      const std::filesystem::path& /*directory*/) {}
  /// The last call.
  virtual void on_train_end(Trainer& /*trainer*/) {}
};

} // namespace torchlora::train
