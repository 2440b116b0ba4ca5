#pragma once

#include <string>
#include <vector>

#include <c10/util/Exception.h>
#include <torch/types.h>

#include <torchlora/types.h>

namespace torchlora::train {

/// Returns the dtype of sums on a device: fp64 where it has that.
inline at::ScalarType sum_dtype(at::Device device) {
  return device.is_mps() || device.is_xpu() ? at::kFloat : at::kDouble;
}

/// Adds `value` · `weight`, a number in a tensor, to a sum that stays on the
/// device of its first term and is undefined before it. ValueError, naming
/// `what`, for another number of values.
inline void add_to(
    Tensor& sum,
    const Tensor& value,
    const std::string& what,
    double weight = 1) {
  TORCH_CHECK_VALUE(
      value.numel() == 1,
      what,
      " must be one number, found sizes ",
      value.sizes());
  const auto device = sum.defined() ? sum.device() : value.device();
  const auto term =
      value.detach().reshape({}).to(device, sum_dtype(device)) * weight;
  sum = sum.defined() ? sum + term : term;
}

/// Returns the values of tensors with one number by one copy from their device.
inline std::vector<double> to_host(std::vector<Tensor> scalars) {
  if (scalars.empty()) {
    return {};
  }
  for (auto& scalar : scalars) {
    scalar = scalar.detach().reshape({}).to(
        scalars[0].device(), scalars[0].scalar_type());
  }
  const auto values = at::stack(scalars).to(at::kCPU).to(at::kDouble);
  const auto* data = values.const_data_ptr<double>();
  return {data, data + scalars.size()};
}

} // namespace torchlora::train
