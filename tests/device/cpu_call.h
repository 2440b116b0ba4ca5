#pragma once

#include <optional>

#include <torch/library.h>
#include <torch/types.h>

namespace torchlora::test {

constexpr auto kFake = c10::DeviceType::HPU;

/// The allocator of the fake device.
c10::Allocator& fake_memory();
/// The device of the calling thread.
c10::Device current_fake_device();

/// Returns a tensor of the fake device as one of the host, in the same memory;
/// any other tensor as it is.
at::Tensor on_host(const at::Tensor& tensor);
/// The same of an optional tensor.
std::optional<at::Tensor> on_host(const std::optional<at::Tensor>& tensor);
/// Returns a tensor of the host as one of `device`, in the same memory; any
/// other tensor as it is.
at::Tensor from_host(const at::Tensor& tensor, c10::Device device);

/// Runs an operation's CPU kernel on tensors of the fake device, which must
/// all be of one; numbers of the host that have no dimension may join.
void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack);

} // namespace torchlora::test
