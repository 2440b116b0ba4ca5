#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <torchlora/export.h>

namespace torchlora::train {

/// What every trainer needs to know; the names, meanings and (unless said
/// otherwise) defaults of transformers' `TrainingArguments` as TRL sets them.
/// Plain members: the trainers' configurations derive from it.
struct TORCHLORA_API TrainingArguments {
  /// Checkpoints, `log.jsonl` and `trainer_state.json`; empty: nothing is
  /// written.
  std::filesystem::path output_dir;

  /// @{
  /// Pairs or rows of a micro-batch, micro-batches of a step, passes over the
  /// data.
  int64_t per_device_train_batch_size = 8;
  int64_t per_device_eval_batch_size = 8;
  int64_t gradient_accumulation_steps = 1;
  double num_train_epochs = 3;
  /// @}

  /// Overrides `num_train_epochs` if positive.
  int64_t max_steps = -1;

  /// @{
  /// Of AdamW.
  double learning_rate = 1e-6;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  /// @}

  /// LoRA+ (optim/loraplus.h), with its own decay in place of `weight_decay`;
  /// 0: one learning rate for all.
  double loraplus_lr_ratio = 0;
  /// @{
  /// Of LoRA+.
  double loraplus_weight_decay = 0;
  double loraplus_lr_embedding = 1e-6;
  /// @}

  /// 0: no clipping.
  double max_grad_norm = 1;
  /// A name of `lr_scheduler_types()` (train/schedule.h).
  std::string lr_scheduler_type = "linear";
  /// A number of steps, or below 1 the share of all steps, rounded up.
  double warmup_steps = 0;

  /// Of the order of the examples.
  uint64_t seed = 42;
  /// "random": each epoch a permutation drawn from `seed` + epoch, TRL's
  /// order; "sequential".
  std::string train_sampling_strategy = "random";

  /// Every that many steps; below 1 the share of all steps.
  double logging_steps = 10;
  /// "steps", "epoch" or "no". transformers' default is "no"; here
  /// evaluation data that is given is used.
  std::string eval_strategy = "steps";
  /// 0: `logging_steps`. The last step is evaluated in any case.
  double eval_steps = 0;
  /// Evaluates before the first step too.
  bool eval_on_start = false;
  /// "steps", "epoch" or "no". The last step is saved in any case but "no",
  /// and an interrupted run always.
  std::string save_strategy = "steps";
  /// Every that many steps; below 1 the share of all steps.
  double save_steps = 500;

  /// ValueError names the field that cannot be right.
  void validate() const;
};

} // namespace torchlora::train
