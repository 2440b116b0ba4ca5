#include <torchlora/nn/inspect.h>

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

} // namespace torchlora::nn
