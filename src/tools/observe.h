#pragma once

#include <torchlora/lora/layer.h>

#include "model/sites.h"

namespace torchlora {

/// For its lifetime every module is in training or in eval mode.
class TrainingModeGuard {
 public:
  TrainingModeGuard(Module& model, bool training);
  ~TrainingModeGuard();
  TrainingModeGuard(const TrainingModeGuard&) = delete;
  TrainingModeGuard& operator=(const TrainingModeGuard&) = delete;

 private:
  /// Parents first.
  std::vector<std::pair<std::shared_ptr<Module>, bool>> saved_;
};

/// For its lifetime calls a function with the rows that a module's weight is
/// multiplied by. A layer that is not adapted is bound to a LoRA layer without
/// adapters, which stays outside of the module tree.
class ObservedModule {
 public:
  ObservedModule(
      const TargetSite& site,
      std::function<void(const Tensor& rows)> observer);
  ~ObservedModule();
  ObservedModule(ObservedModule&&) noexcept = default;
  ObservedModule& operator=(ObservedModule&&) = delete;

 private:
  std::shared_ptr<LoraLayer> layer_;
};

} // namespace torchlora
