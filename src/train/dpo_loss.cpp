#include <torchlora/train/dpo_loss.h>

#include <algorithm>

#include <c10/util/Exception.h>
#include <fmt/ranges.h>

namespace torchlora::train {

namespace {

struct Entry {
  const char* name;
  DpoLoss loss;
};

const Entry kLosses[] = {
    {"sigmoid", sigmoid_dpo_loss},
};

} // namespace

std::vector<std::string> dpo_loss_types() {
  std::vector<std::string> names;
  for (const auto& entry : kLosses) {
    names.emplace_back(entry.name);
  }
  return names;
}

DpoLoss find_dpo_loss(const std::string& loss_type) {
  const auto* const entry =
      std::find_if(std::begin(kLosses), std::end(kLosses), [&](const auto& e) {
        return e.name == loss_type;
      });
  TORCH_CHECK_VALUE(
      entry != std::end(kLosses),
      "[find_dpo_loss] loss_type must be one of ",
      fmt::format("{}", fmt::join(dpo_loss_types(), ", ")),
      ", found ",
      loss_type);
  return entry->loss;
}

} // namespace torchlora::train
