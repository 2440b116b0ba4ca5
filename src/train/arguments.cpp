#include <torchlora/train/arguments.h>

#include <cmath>

#include <torchlora/optim/loraplus.h>
#include <torchlora/train/schedule.h>

namespace torchlora::train {

namespace {

template <class T>
void check(
    bool holds,
    const char* field,
    const char* required,
    const T& found) {
  TORCH_CHECK_VALUE(
      holds,
      "[TrainingArguments] ",
      field,
      " must be ",
      required,
      ", found ",
      found);
}

void check_strategy(const char* field, const std::string& strategy) {
  check(
      strategy == "steps" || strategy == "epoch" || strategy == "no",
      field,
      "steps, epoch or no",
      strategy);
}

} // namespace

void TrainingArguments::validate() const {
  check(
      per_device_train_batch_size > 0,
      "per_device_train_batch_size",
      "positive",
      per_device_train_batch_size);
  check(
      per_device_eval_batch_size > 0,
      "per_device_eval_batch_size",
      "positive",
      per_device_eval_batch_size);
  check(
      gradient_accumulation_steps > 0,
      "gradient_accumulation_steps",
      "positive",
      gradient_accumulation_steps);
  check(
      max_steps > 0 || num_train_epochs > 0,
      "num_train_epochs",
      "positive unless max_steps is",
      num_train_epochs);
  check(
      std::isfinite(learning_rate) && learning_rate >= 0,
      "learning_rate",
      "finite and not negative",
      learning_rate);
  check(
      std::isfinite(weight_decay) && weight_decay >= 0,
      "weight_decay",
      "finite and not negative",
      weight_decay);
  check(
      adam_beta1 >= 0 && adam_beta1 < 1, "adam_beta1", "in [0, 1)", adam_beta1);
  check(
      adam_beta2 >= 0 && adam_beta2 < 1, "adam_beta2", "in [0, 1)", adam_beta2);
  check(adam_epsilon >= 0, "adam_epsilon", "not negative", adam_epsilon);
  check(
      std::isfinite(loraplus_lr_ratio) && loraplus_lr_ratio >= 0,
      "loraplus_lr_ratio",
      "finite and not negative",
      loraplus_lr_ratio);
  check(
      loraplus_lr_ratio > 0 || loraplus_weight_decay == 0,
      "loraplus_weight_decay",
      "0 without loraplus_lr_ratio",
      loraplus_weight_decay);
  check(
      loraplus_lr_ratio > 0 || loraplus_lr_embedding == 1e-6,
      "loraplus_lr_embedding",
      "left alone without loraplus_lr_ratio",
      loraplus_lr_embedding);
  if (loraplus_lr_ratio > 0) {
    check(
        weight_decay == 0,
        "weight_decay",
        "0 with loraplus_lr_ratio, which has loraplus_weight_decay",
        weight_decay);
    LoraPlusOptions(loraplus_lr_ratio)
        .loraplus_weight_decay(loraplus_weight_decay)
        .loraplus_lr_embedding(loraplus_lr_embedding)
        .validate();
  }
  check(max_grad_norm >= 0, "max_grad_norm", "not negative", max_grad_norm);
  make_lr_schedule(lr_scheduler_type, 0, 1);
  check(
      warmup_steps >= 0 &&
          (warmup_steps < 1 || warmup_steps == std::floor(warmup_steps)),
      "warmup_steps",
      "a whole number of steps or a share in [0, 1)",
      warmup_steps);
  check(
      train_sampling_strategy == "random" ||
          train_sampling_strategy == "sequential",
      "train_sampling_strategy",
      "random or sequential",
      train_sampling_strategy);
  check(logging_steps > 0, "logging_steps", "positive", logging_steps);
  check(eval_steps >= 0, "eval_steps", "not negative", eval_steps);
  check(save_steps > 0, "save_steps", "positive", save_steps);
  check_strategy("eval_strategy", eval_strategy);
  check_strategy("save_strategy", save_strategy);
}

} // namespace torchlora::train
