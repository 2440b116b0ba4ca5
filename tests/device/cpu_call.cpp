#include "device/cpu_call.h"

#include <utility>
#include <vector>

#include <c10/core/CPUAllocator.h>

namespace torchlora::test {

using at::Tensor;

namespace {

/// A tensor with the memory and the strides of `tensor`, which it keeps alive.
Tensor alias(const Tensor& tensor, c10::Device device) {
  const auto& storage = tensor.storage();
  const bool on_host = device.is_cpu();
  auto own = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(),
      storage.nbytes(),
      c10::DataPtr(
          const_cast<void*>(storage.data()),
          new c10::Storage(storage),
          [](void* kept) { delete static_cast<c10::Storage*>(kept); },
          device),
      on_host ? c10::GetCPUAllocator() : &fake_memory(),
      /*resizable=*/true);
  auto result = at::detail::make_tensor<c10::TensorImpl>(
      c10::Storage(std::move(own)),
      on_host ? c10::DispatchKeySet(c10::DispatchKey::CPU)
              : c10::DispatchKeySet(c10::DispatchKey::HPU),
      tensor.dtype());
  auto* impl = result.unsafeGetTensorImpl();
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  impl->set_storage_offset(tensor.storage_offset());
  impl->_set_conj(tensor.is_conj());
  impl->_set_neg(tensor.is_neg());
  return result;
}

} // namespace

Tensor on_host(const Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kFake
      ? alias(tensor, at::kCPU)
      : tensor;
}

std::optional<Tensor> on_host(const std::optional<Tensor>& tensor) {
  return tensor ? std::optional(on_host(*tensor)) : std::nullopt;
}

Tensor from_host(const Tensor& tensor, c10::Device device) {
  return tensor.defined() && tensor.is_cpu() ? alias(tensor, device) : tensor;
}

namespace {

/// Runs an operation's CPU kernel on the tensors of a call.
class CpuCall {
 public:
  explicit CpuCall(const c10::OperatorHandle& op)
      : op_(op), device_(current_fake_device()) {}

  void run(torch::jit::Stack& stack) {
    const auto inputs = op_.schema().arguments().size();
    for (auto i = stack.size() - inputs; i < stack.size(); ++i) {
      stack[i] = to_host(stack[i]);
    }
    op_.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), &stack);
    const auto outputs = op_.schema().returns().size();
    for (auto i = stack.size() - outputs; i < stack.size(); ++i) {
      stack[i] =
          each_tensor(stack[i], [&](const Tensor& t) { return give(t); });
    }
    for (const auto& [own, host] : arguments_) {
      follow(own, host);
    }
  }

 private:
  /// Returns `value` with its tensors, one or a list, changed by `convert`.
  template <class Convert>
  static c10::IValue each_tensor(
      const c10::IValue& value,
      const Convert& convert) {
    if (value.isTensor()) {
      return convert(value.toTensor());
    }
    if (!value.isTensorList()) {
      return value;
    }
    c10::List<Tensor> list;
    for (const Tensor& tensor : value.toTensorVector()) {
      list.push_back(convert(tensor));
    }
    return list;
  }

  c10::IValue to_host(const c10::IValue& value) {
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<Tensor>> list;
      for (std::optional<Tensor> tensor : value.toOptionalTensorList()) {
        list.push_back(tensor ? std::optional(take(*tensor)) : std::nullopt);
      }
      return list;
    }
    return value.isDevice()
        ? c10::IValue(c10::Device(at::kCPU))
        : each_tensor(value, [&](const Tensor& t) { return take(t); });
  }

  Tensor take(const Tensor& tensor) {
    if (!tensor.defined() || (tensor.is_cpu() && tensor.dim() == 0)) {
      return tensor;
    }
    if (arguments_.empty()) {
      device_ = tensor.device();
    }
    TORCH_CHECK(
        tensor.device() == device_ && device_.type() == kFake,
        "Expected all tensors to be on the same device, but ",
        op_.schema().operator_name(),
        " has one of ",
        tensor.device(),
        " among those of ",
        device_.type() == kFake ? device_ : c10::Device(kFake, 0));
    arguments_.emplace_back(tensor, on_host(tensor));
    return arguments_.back().second;
  }

  Tensor give(const Tensor& tensor) {
    for (const auto& [own, host] : arguments_) {
      if (host.is_same(tensor)) {
        return own;
      }
    }
    return from_host(tensor, device_);
  }

  /// An output argument that the kernel gave other sizes, and so other memory.
  static void follow(const Tensor& own, const Tensor& host) {
    if (own.storage().data() != host.storage().data() ||
        own.sizes() != host.sizes()) {
      auto* impl = own.unsafeGetTensorImpl();
      impl->set_storage_keep_dtype(alias(host, own.device()).storage());
      impl->set_sizes_and_strides(host.sizes(), host.strides());
    }
  }

  c10::OperatorHandle op_;
  c10::Device device_;
  std::vector<std::pair<Tensor, Tensor>> arguments_;
};

} // namespace

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  CpuCall(op).run(*stack);
}

} // namespace torchlora::test
