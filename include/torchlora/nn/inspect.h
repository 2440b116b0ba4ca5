#pragma once

#include <unordered_set>

#include <torch/types.h>

#include <torchlora/types.h>

namespace torchlora::nn {

/// Returns the names of the parameters that hold a NaN or an infinity, and of
/// the buffers that hold a NaN. A buffer may be infinite, as the bounds of a
/// clamp are (`input_min` …).
inline std::vector<std::string> find_nonfinite(const Module& module) {
  torch::NoGradGuard no_grad;
  std::vector<std::string> names;
  for (const auto& item : module.named_parameters()) {
    if (!at::isfinite(item.value()).all().item<bool>()) {
      names.push_back(item.key());
    }
  }
  for (const auto& item : module.named_buffers()) {
    if (at::isnan(item.value()).any().item<bool>()) {
      names.push_back(item.key());
    }
  }
  return names;
}

/// Returns the parameters of `module` that require a gradient, for an
/// optimizer. Returns a parameter that has several names once.
inline std::vector<Tensor> trainable_parameters(const Module& module) {
  std::vector<Tensor> result;
  std::unordered_set<at::TensorImpl*> seen;
  for (const auto& parameter : module.parameters()) {
    if (parameter.requires_grad() &&
        seen.insert(parameter.unsafeGetTensorImpl()).second) {
      result.push_back(parameter);
    }
  }
  return result;
}

} // namespace torchlora::nn
