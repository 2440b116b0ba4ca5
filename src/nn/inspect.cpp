#include <torchlora/nn/inspect.h>

#include <unordered_set>

#include <torch/types.h>

namespace torchlora::nn {

std::vector<std::string> find_nonfinite(const torch::nn::Module& module) {
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

std::vector<at::Tensor> trainable_parameters(const torch::nn::Module& module) {
  std::vector<at::Tensor> result;
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
