#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <torchlora/export.h>

namespace torchlora::train {

/// The arguments that all trainers share. Names, meanings and (unless a comment
/// says otherwise) defaults are those that transformers' `TrainingArguments`
/// have in TRL. The configuration of each trainer derives from it, so its
/// members are plain.
struct TORCHLORA_API TrainingArguments {
  /// The folder to which the trainer writes checkpoints, `log.jsonl` and
  /// `trainer_state.json` (there, and in each checkpoint the state of its
  /// step). The trainer creates it. Empty: it writes nothing.
  std::filesystem::path output_dir;

  /// The number of examples per micro-batch in training.
  int64_t per_device_train_batch_size = 8;
  /// The number of examples per batch in evaluation.
  int64_t per_device_eval_batch_size = 8;
  /// The number of micro-batches whose gradients add up to one optimizer step.
  int64_t gradient_accumulation_steps = 1;
  /// The number of passes over the training data. A fraction ends in the middle
  /// of a pass.
  double num_train_epochs = 3;
  /// The number of optimizer steps of the run. Overrides `num_train_epochs` if
  /// positive.
  int64_t max_steps = -1;

  /// @{
  /// Options of AdamW. `learning_rate` is the peak of the schedule.
  double learning_rate = 1e-6;
  double weight_decay = 0;
  double adam_beta1 = 0.9;
  double adam_beta2 = 0.999;
  double adam_epsilon = 1e-8;
  /// @}

  /// The learning rate of B divided by that of A, as LoRA+ has it
  /// (optim/loraplus.h). 0: the trainer uses plain AdamW.
  double loraplus_lr_ratio = 0;
  /// @{
  /// Options of LoRA+, which must keep their defaults if `loraplus_lr_ratio` is
  /// 0. With LoRA+ `loraplus_weight_decay` replaces `weight_decay`, which must
  /// be 0.
  double loraplus_weight_decay = 0;
  double loraplus_lr_embedding = 1e-6;
  /// @}

  /// The trainer scales all gradients down together if their L2 norm exceeds
  /// this. 0: it does not clip.
  double max_grad_norm = 1;
  /// The schedule of the learning rate: a name in `lr_scheduler_types()`
  /// (train/schedule.h).
  std::string lr_scheduler_type = "linear";
  /// The number of steps in which the learning rate rises from 0 to its peak.
  /// Below 1: a share of all steps, rounded up.
  double warmup_steps = 0;

  /// The seed of the random order of the training examples.
  uint64_t seed = 42;
  /// The order of the training examples. "random": each epoch has a new
  /// permutation, drawn from `seed` + epoch, which is TRL's order.
  /// "sequential": the order of the file.
  std::string train_sampling_strategy = "random";

  /// The number of steps between log records. Below 1: a share of all steps.
  double logging_steps = 10;
  /// When to evaluate: every `eval_steps` ("steps"), after each epoch ("epoch")
  /// or never ("no"). transformers' default is "no"; here the trainer evaluates
  /// if there is evaluation data.
  std::string eval_strategy = "steps";
  /// The number of steps between evaluations. 0: `logging_steps`; below 1: a
  /// share of all steps. The trainer always evaluates after the last step,
  /// unless `eval_strategy` is "no".
  double eval_steps = 0;
  /// Whether the trainer also evaluates before the first step.
  bool eval_on_start = false;
  /// When to save a checkpoint: every `save_steps` ("steps"), after each epoch
  /// ("epoch") or never ("no"). Unless the strategy is "no", the trainer saves
  /// the last step too. It always saves a run that is interrupted.
  std::string save_strategy = "steps";
  /// The number of steps between checkpoints. Below 1: a share of all steps.
  double save_steps = 500;

  /// Checks all arguments. ValueError names the first field with an invalid
  /// value.
  void validate() const;
};

} // namespace torchlora::train
