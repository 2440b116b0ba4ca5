#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/lora/layer.h>

#include "model/sites.h"

namespace torchlora {

/// Puts every module into training or eval mode, and each into its own mode
/// again at the end.
class TrainingModeGuard {
 public:
  TrainingModeGuard(torch::nn::Module& model, bool training);
  ~TrainingModeGuard();
  TrainingModeGuard(const TrainingModeGuard&) = delete;
  TrainingModeGuard& operator=(const TrainingModeGuard&) = delete;

 private:
  /// Parents first.
  std::vector<std::pair<std::shared_ptr<torch::nn::Module>, bool>> saved_;
};

/// Shows the rows that a module's weight is multiplied by to a function for
/// its lifetime. A layer that is not adapted is redirected meanwhile to a LoRA
/// layer without adapters, outside of the module tree.
class ObservedModule {
 public:
  ObservedModule(
      const TargetSite& site,
      std::function<void(const at::Tensor& rows)> observer);
  ~ObservedModule();
  ObservedModule(ObservedModule&&) noexcept = default;
  ObservedModule& operator=(ObservedModule&&) = delete;

 private:
  std::shared_ptr<LoraLayer> layer_;
};

} // namespace torchlora
