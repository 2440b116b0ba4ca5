#pragma once

#include <memory>
#include <type_traits>
#include <utility>

#include <torch/torch.h>

namespace torchlora::test {

/// The device that TORCHLORA_TEST_DEVICE names, "cpu" unless it is set: "cuda",
/// "cuda:1", …, or "fake" for that of fake_device.h. A device that this machine
/// has not is said once, and the tests run on the CPU.
at::Device test_device();

/// A tensor, or a module behind a pointer or holder, on that device.
template <class Value>
Value on_device(Value value) {
  if constexpr (std::is_base_of_v<at::TensorBase, Value>) {
    return value.to(test_device());
  } else {
    value->to(test_device());
    return value;
  }
}

/// std::make_shared of a module, on that device.
template <class Module, class... Arguments>
std::shared_ptr<Module> make_module(Arguments&&... arguments) {
  return on_device(
      std::make_shared<Module>(std::forward<Arguments>(arguments)...));
}

/// LibTorch's factories with the same values on every device.
inline at::Tensor randn(at::IntArrayRef sizes, at::TensorOptions options = {}) {
  return on_device(torch::randn(sizes, options));
}
inline at::Tensor rand(at::IntArrayRef sizes, at::TensorOptions options = {}) {
  return on_device(torch::rand(sizes, options));
}
inline at::Tensor randint(
    int64_t low,
    int64_t high,
    at::IntArrayRef sizes,
    at::TensorOptions options = at::kLong) {
  return on_device(torch::randint(low, high, sizes, options));
}
inline at::Tensor randint(
    int64_t high,
    at::IntArrayRef sizes,
    at::TensorOptions options = at::kLong) {
  return randint(0, high, sizes, options);
}
inline at::Tensor zeros(at::IntArrayRef sizes, at::TensorOptions options = {}) {
  return torch::zeros(sizes, options.device(test_device()));
}
inline at::Tensor ones(at::IntArrayRef sizes, at::TensorOptions options = {}) {
  return torch::ones(sizes, options.device(test_device()));
}
inline at::Tensor empty(at::IntArrayRef sizes, at::TensorOptions options = {}) {
  return torch::empty(sizes, options.device(test_device()));
}
inline at::Tensor full(
    at::IntArrayRef sizes,
    const at::Scalar& value,
    at::TensorOptions options = {}) {
  return torch::full(sizes, value, options.device(test_device()));
}
template <class... Bounds>
at::Tensor arange(Bounds... bounds) {
  return on_device(torch::arange(bounds...));
}
inline at::Tensor eye(int64_t n, at::TensorOptions options = {}) {
  return torch::eye(n, options.device(test_device()));
}
inline at::Tensor tensor(
    const torch::detail::TensorDataContainer& values,
    const at::TensorOptions& options = {}) {
  return on_device(torch::tensor(values, options));
}

} // namespace torchlora::test
