#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <numbers>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::train {

/// A function that returns the factor on the learning rate for a step index
/// (from 0).
using LrSchedule = std::function<double(int64_t step)>;

/// Returns transformers' schedule of the name `lr_scheduler_type` for
/// `num_training_steps` steps. Its factor rises linearly from 0 to 1 in the
/// first `num_warmup_steps` (not for "constant"), then follows the decay of
/// that name. ValueError lists the names that exist.
TORCHLORA_API LrSchedule make_lr_schedule(
    const std::string& lr_scheduler_type,
    int64_t num_warmup_steps,
    int64_t num_training_steps);

/// Returns the names of all schedules that `make_lr_schedule` makes.
TORCHLORA_API std::vector<std::string> lr_scheduler_types();

/// Returns an option of `TrainingArguments` such as `warmup_steps` as a number
/// of steps. A value below 1 is a share of `num_training_steps`, rounded up.
inline int64_t whole_steps(double steps, int64_t num_training_steps) {
  return static_cast<int64_t>(
      steps >= 1 ? steps
                 : std::ceil(static_cast<double>(num_training_steps) * steps));
}

/// Returns the learning-rate factor 1 − p of the schedule "linear", where p in
/// [0, 1] is the progress after the warmup.
inline double linear_decay(double progress) {
  return 1 - progress;
}

/// Returns the learning-rate factor ½ (1 + cos πp) of the schedule "cosine",
/// where p in [0, 1] is the progress after the warmup. Loshchilov and Hutter
/// 2017, one half period.
inline double cosine_decay(double progress) {
  return 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

/// Returns 1, the learning-rate factor of "constant" and "constant_with_warmup"
/// after the warmup.
inline double no_decay(double /*progress*/) {
  return 1;
}

} // namespace torchlora::train
