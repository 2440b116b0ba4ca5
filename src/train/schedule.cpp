#include <torchlora/train/schedule.h>

#include <algorithm>

#include <c10/util/Exception.h>
#include <fmt/ranges.h>

namespace torchlora::train {

namespace {

struct Schedule {
  const char* name;
  bool has_warmup;
  /// The factor after the warmup as a function of the progress in [0, 1].
  double (*decay)(double progress);
};

const Schedule kSchedules[] = {
    {"linear", true, linear_decay},
    {"cosine", true, cosine_decay},
    {"constant", false, no_decay},
    {"constant_with_warmup", true, no_decay},
};

} // namespace

std::vector<std::string> lr_scheduler_types() {
  std::vector<std::string> names;
  for (const auto& schedule : kSchedules) {
    names.emplace_back(schedule.name);
  }
  return names;
}

LrSchedule make_lr_schedule(
    const std::string& lr_scheduler_type,
    int64_t num_warmup_steps,
    int64_t num_training_steps) {
  const auto* const schedule = std::find_if(
      std::begin(kSchedules), std::end(kSchedules), [&](const auto& entry) {
        return entry.name == lr_scheduler_type;
      });
  TORCH_CHECK_VALUE(
      schedule != std::end(kSchedules),
      "[make_lr_schedule] lr_scheduler_type must be one of ",
      fmt::format("{}", fmt::join(lr_scheduler_types(), ", ")),
      ", found ",
      lr_scheduler_type);
  const auto warmup = schedule->has_warmup ? num_warmup_steps : 0;
  const auto rest = std::max<int64_t>(1, num_training_steps - warmup);
  return [warmup, rest, decay = schedule->decay](int64_t step) {
    if (step < warmup) {
      return static_cast<double>(step) / static_cast<double>(warmup);
    }
    const auto progress =
        static_cast<double>(step - warmup) / static_cast<double>(rest);
    return std::max(0.0, decay(std::min(1.0, progress)));
  };
}

} // namespace torchlora::train
