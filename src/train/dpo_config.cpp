#include <cmath>

#include <torchlora/train/dpo.h>
#include <torchlora/train/dpo_loss.h>

namespace torchlora::train {

void DpoConfig::validate() const {
  TrainingArguments::validate();
  TORCH_CHECK_VALUE(
      beta > 0, "[DpoConfig] beta must be positive, found ", beta);
  TORCH_CHECK_VALUE(
      std::isfinite(beta), "[DpoConfig] beta must be finite, found ", beta);
  TORCH_CHECK_VALUE(
      !loss_type.empty(), "[DpoConfig] loss_type must name a loss");
  for (const auto& name : loss_type) {
    find_dpo_loss(name);
  }
  TORCH_CHECK_VALUE(
      loss_weights.empty() || loss_weights.size() == loss_type.size(),
      "[DpoConfig] loss_weights must be as many as loss_type (",
      loss_type.size(),
      "), found ",
      loss_weights.size());
  for (const auto weight : loss_weights) {
    TORCH_CHECK_VALUE(
        std::isfinite(weight),
        "[DpoConfig] loss_weights must be finite, found ",
        weight);
  }
  TORCH_CHECK_VALUE(
      reference == "auto" || reference == "base" ||
          reference == "initial_adapter",
      "[DpoConfig] reference must be auto, base or initial_adapter, found ",
      reference);
  RowTruncation::validate();
}

} // namespace torchlora::train
