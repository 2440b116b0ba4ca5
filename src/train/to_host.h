#pragma once

#include <vector>

#include <torch/types.h>

#include <torchlora/types.h>

namespace torchlora::train {

/// Returns the values of scalar tensors by one copy from their device.
inline std::vector<double> to_host(std::vector<Tensor> scalars) {
  if (scalars.empty()) {
    return {};
  }
  for (auto& scalar : scalars) {
    scalar = scalar.detach().to(scalars[0].device(), at::kDouble);
  }
  const auto values = at::stack(scalars).to(at::kCPU);
  const auto* data = values.const_data_ptr<double>();
  return {data, data + scalars.size()};
}

} // namespace torchlora::train
