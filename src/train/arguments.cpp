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

/// An upper bound of counts: products of two of them fit int64, and all of them
/// are exact in double.
constexpr int64_t kMaxCount = int64_t{1} << 31;
/// An upper bound of numbers of steps and epochs.
constexpr double kMaxSteps = 1e9;

void check_count(const char* field, int64_t count) {
  check(count > 0, field, "positive", count);
  check(count < kMaxCount, field, "below 2^31", count);
}

/// Checks a number of steps, below 1 a share of all.
void check_steps(const char* field, double steps) {
  check(
      steps >= 0 && steps <= kMaxSteps, field, "a number from 0 to 1e9", steps);
  check(
      steps < 1 || steps == std::floor(steps),
      field,
      "a whole number of steps or a share in [0, 1)",
      steps);
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
  check_count("per_device_train_batch_size", per_device_train_batch_size);
  check_count("per_device_eval_batch_size", per_device_eval_batch_size);
  check_count("gradient_accumulation_steps", gradient_accumulation_steps);
  check(
      static_cast<double>(max_steps) <= kMaxSteps,
      "max_steps",
      "at most 1e9",
      max_steps);
  check(
      max_steps > 0 || num_train_epochs > 0,
      "num_train_epochs",
      "positive unless max_steps is",
      num_train_epochs);
  check(
      max_steps > 0 || num_train_epochs <= kMaxSteps,
      "num_train_epochs",
      "at most 1e9",
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
  check(
      std::isfinite(adam_epsilon) && adam_epsilon >= 0,
      "adam_epsilon",
      "finite and not negative",
      adam_epsilon);
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
  check(
      std::isfinite(max_grad_norm) && max_grad_norm >= 0,
      "max_grad_norm",
      "finite and not negative; 0 never clips",
      max_grad_norm);
  make_lr_schedule(lr_scheduler_type, 0, 1);
  check_steps("warmup_steps", warmup_steps);
  check(
      train_sampling_strategy == "random" ||
          train_sampling_strategy == "sequential",
      "train_sampling_strategy",
      "random or sequential",
      train_sampling_strategy);
  check(logging_steps > 0, "logging_steps", "positive", logging_steps);
  check_steps("logging_steps", logging_steps);
  check_steps("eval_steps", eval_steps);
  check(save_steps > 0, "save_steps", "positive", save_steps);
  check_steps("save_steps", save_steps);
  check_strategy("eval_strategy", eval_strategy);
  check_strategy("save_strategy", save_strategy);
}

} // namespace torchlora::train
