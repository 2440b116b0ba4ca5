#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::train {

/// The factor on the learning rate for a step index (from 0).
using LrSchedule = std::function<double(int64_t step)>;

/// transformers' schedule of this name over `num_training_steps`, the first
/// `num_warmup_steps` of which rise linearly from 0. ValueError lists the
/// names there are.
TORCHLORA_API LrSchedule make_lr_schedule(
    const std::string& lr_scheduler_type,
    int64_t num_warmup_steps,
    int64_t num_training_steps);

/// The names that `make_lr_schedule` knows.
TORCHLORA_API std::vector<std::string> lr_scheduler_types();

/// `TrainingArguments::warmup_steps` in steps: below 1 the share of
/// `num_training_steps`, rounded up.
TORCHLORA_API int64_t
resolve_warmup_steps(double warmup_steps, int64_t num_training_steps);

} // namespace torchlora::train
