#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <torchlora/export.h>

namespace torchlora::train {

/// The arguments that all trainers share, with the names, meanings and (unless
/// a comment says otherwise) defaults that transformers' `TrainingArguments`
/// have in TRL. The configurations of the trainers derive from it, so its
/// members are plain.
struct TORCHLORA_API TrainingArguments {
  /// The folder of checkpoints, `log.jsonl` and `trainer_state.json`. Empty:
  /// the trainer writes nothing.
  std::filesystem::path output_dir;

  /// Examples per micro-batch in training.
  int64_t per_device_train_batch_size = 8;
  /// Examples per batch in evaluation.
  int64_t per_device_eval_batch_size = 8;
  /// Micro-batches per optimizer step.
  int64_t gradient_accumulation_steps = 1;
  /// Passes over the training data; a fraction ends in the middle of a pass.
  double num_train_epochs = 3;
  /// The number of optimizer steps. Overrides `num_train_epochs` if positive.
  int64_t max_steps = -1;

  /// @{
  /// Options of AdamW. `learning_rate` is the peak of the schedule.
  double learning_rate = 1e-6;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  /// @}

  /// Learning rate of B divided by that of A: LoRA+ (optim/loraplus.h). 0:
  /// plain AdamW.
  double loraplus_lr_ratio = 0;
  /// @{
  /// Options of LoRA+. Its decay replaces `weight_decay`, which must be 0.
  double loraplus_weight_decay = 0;
  double loraplus_lr_embedding = 1e-6;
  /// @}

  /// Gradients are clipped to this L2 norm. 0: no clipping.
  double max_grad_norm = 1;
  /// A name in `lr_scheduler_types()` (train/schedule.h).
  std::string lr_scheduler_type = "linear";
  /// The number of warmup steps. Below 1: a share of all steps, rounded up.
  double warmup_steps = 0;

  /// The seed of the order of the examples.
  uint64_t seed = 42;
  /// "random": each epoch has a new permutation, drawn from `seed` + epoch,
  /// which is TRL's order. "sequential": the order of the file.
  std::string train_sampling_strategy = "random";

  /// The interval between log records in steps. Below 1: a share of all steps.
  double logging_steps = 10;
  /// "steps", "epoch" or "no". transformers' default is "no"; here the
  /// evaluation data is used if there is any.
  std::string eval_strategy = "steps";
  /// The interval between evaluations in steps. 0: `logging_steps`. The last
  /// step is always evaluated, unless `eval_strategy` is "no".
  double eval_steps = 0;
  /// Whether to evaluate before the first step too.
  bool eval_on_start = false;
  /// "steps", "epoch" or "no". The last step is always saved, unless the
  /// strategy is "no". A run that is interrupted is always saved.
  std::string save_strategy = "steps";
  /// The interval between checkpoints in steps. Below 1: a share of all steps.
  double save_steps = 500;

  /// ValueError names the field that cannot be right.
  void validate() const;
};

} // namespace torchlora::train
