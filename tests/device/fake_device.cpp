#include "device/fake_device.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/HPUHooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorFactories.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>
#include <torch/torch.h>

#include "device/cpu_call.h"

namespace torchlora::test {
namespace {

using at::Tensor;

constexpr c10::DeviceIndex kDevices = 2;
const c10::DispatchKeySet kFakeKey(c10::DispatchKey::HPU);

thread_local c10::DeviceIndex current_device = 0;
std::atomic<int64_t> to_host, to_device, bytes_to_device;

// ---- Memory, guards, generators

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    // Aligned as LibTorch's: the bits of a product depend on it.
    const auto rounded = (size + 63) / 64 * 64;
    void* data = size ? std::aligned_alloc(64, rounded) : nullptr;
    return {data, data, &std::free, c10::Device(kFake, current_device)};
  }
  c10::DeleterFnPtr raw_deleter() const override {
    return &std::free;
  }
  void copy_data(void* to, const void* from, std::size_t size) const override {
    std::memcpy(to, from, size);
  }
};
Memory memory;

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override {
    return kFake;
  }
  c10::Device exchangeDevice(c10::Device device) const override {
    return {kFake, std::exchange(current_device, device.index())};
  }
  c10::Device getDevice() const override {
    return {kFake, current_device};
  }
  void setDevice(c10::Device device) const override {
    current_device = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    current_device = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    return stream;
  }
  c10::DeviceIndex deviceCount() const noexcept override {
    return kDevices;
  }
  void record(
      void** event,
      const c10::Stream&,
      const c10::DeviceIndex,
      const c10::EventFlag) const override {
    static int some_event;
    *event = &some_event;
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override {
    return true;
  }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override {
    return true;
  }
  void synchronizeStream(const c10::Stream&) const override {}
};

/// Draws what the CPU would draw.
struct Hooks final : at::HPUHooksInterface {
  explicit Hooks(at::HPUHooksArgs = {}) {}
  void init() const override {}
  bool hasHPU() const override {
    return true;
  }
  bool isBuilt() const override {
    return true;
  }
  bool isAvailable() const override {
    return true;
  }
  bool hasPrimaryContext(c10::DeviceIndex) const override {
    return true;
  }
  c10::DeviceIndex deviceCount() const override {
    return kDevices;
  }
  c10::DeviceIndex getCurrentDevice() const override {
    return current_device;
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override {
    return at::detail::createCPUGenerator();
  }
};

// ---- What must not or need not pass a CPU kernel

Tensor empty(
    c10::SymIntArrayRef sizes,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>,
    std::optional<at::MemoryFormat> format) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(sizes),
      &memory,
      kFakeKey,
      at::dtype_or_default(dtype),
      format);
}

Tensor empty_strided(
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>,
    std::optional<at::Device> device,
    std::optional<bool>) {
  const c10::OptionalDeviceGuard guard(device);
  return at::detail::empty_strided_generic(
      sizes, strides, &memory, kFakeKey, at::dtype_or_default(dtype));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  if (from.device() != to.device()) {
    if (to.is_cpu()) {
      ++to_host;
    } else if (from.is_cpu()) {
      ++to_device;
      bytes_to_device += static_cast<int64_t>(from.nbytes());
    }
  }
  on_host(to).copy_(on_host(from));
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  if (from.sizes() != to.sizes()) {
    to.resize_(from.sizes());
  }
  return copy_from(from, to, false);
}

at::Scalar local_scalar_dense(const Tensor& tensor) {
  ++to_host;
  return on_host(tensor).item();
}

const Tensor& resize(
    const Tensor& tensor,
    c10::SymIntArrayRef symbolic_sizes,
    std::optional<at::MemoryFormat>) {
  const auto sizes = C10_AS_INTARRAYREF_SLOW(symbolic_sizes);
  if (tensor.sizes() != sizes) {
    const auto other = at::empty(sizes, tensor.options().requires_grad(false));
    auto* impl = tensor.unsafeGetTensorImpl();
    impl->set_storage_keep_dtype(other.storage());
    impl->set_sizes_contiguous(sizes);
  }
  return tensor;
}

Tensor as_strided(
    const Tensor& tensor,
    at::IntArrayRef sizes,
    at::IntArrayRef strides,
    std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(tensor, sizes, strides, offset);
}

Tensor view(const Tensor& tensor, c10::SymIntArrayRef sizes) {
  return at::native::view(tensor, C10_AS_INTARRAYREF_SLOW(sizes));
}

Tensor reshape_alias(
    const Tensor& tensor,
    c10::SymIntArrayRef sizes,
    c10::SymIntArrayRef strides) {
  return at::native::as_strided_tensorimpl(
      tensor,
      C10_AS_INTARRAYREF_SLOW(sizes),
      C10_AS_INTARRAYREF_SLOW(strides),
      tensor.storage_offset());
}

Tensor convolution(
    const Tensor& x,
    const Tensor& weight,
    const std::optional<Tensor>& bias,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups) {
  return from_host(
      at::convolution(
          on_host(x),
          on_host(weight),
          on_host(bias),
          stride,
          padding,
          dilation,
          transposed,
          output_padding,
          groups),
      x.device());
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& gradient,
    const Tensor& x,
    const Tensor& weight,
    at::IntArrayRef stride,
    at::IntArrayRef padding,
    at::IntArrayRef dilation,
    bool transposed,
    at::IntArrayRef output_padding,
    int64_t groups,
    std::array<bool, 3> mask) {
  const auto device = x.device();
  const std::vector<int64_t> bias_sizes{gradient.size(1)};
  auto [dx, dweight, dbias] = at::convolution_backward(
      on_host(gradient),
      on_host(x),
      on_host(weight),
      bias_sizes,
      stride,
      padding,
      dilation,
      transposed,
      output_padding,
      groups,
      mask);
  return {
      from_host(dx, device),
      from_host(dweight, device),
      from_host(dbias, device)};
}

/// Makes a copy resolve a conjugate or negative view itself; LibTorch would
/// resolve it by a copy.
template <c10::DispatchKey key>
void let_copies_through() {
  static torch::Library library(
      torch::Library::IMPL, "aten", key, __FILE__, __LINE__);
  library.impl("_copy_from", torch::CppFunction::makeFallthrough());
}

} // namespace

c10::Allocator& fake_memory() {
  return memory;
}

c10::Device current_fake_device() {
  return {kFake, current_device};
}

void register_fake_device() {
  c10::SetAllocator(kFake, &memory);
  static Guard guard;
  static const c10::impl::DeviceGuardImplRegistrar registrar(kFake, &guard);
  at::HPUHooksRegistry()->Register("HPUHooks", [](at::HPUHooksArgs args) {
    return std::unique_ptr<at::HPUHooksInterface>(new Hooks(args));
  });

  static torch::Library fallback(
      torch::Library::IMPL, "_", c10::DispatchKey::HPU, __FILE__, __LINE__);
  fallback.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  static torch::Library kernels(
      torch::Library::IMPL, "aten", c10::DispatchKey::HPU, __FILE__, __LINE__);
  kernels.impl("empty.memory_format", TORCH_FN(empty));
  kernels.impl("empty_strided", TORCH_FN(empty_strided));
  kernels.impl("_copy_from", TORCH_FN(copy_from));
  kernels.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  kernels.impl("_local_scalar_dense", TORCH_FN(local_scalar_dense));
  kernels.impl("resize_", TORCH_FN(resize));
  kernels.impl("as_strided", TORCH_FN(as_strided));
  kernels.impl("view", TORCH_FN(view));
  kernels.impl("_reshape_alias", TORCH_FN(reshape_alias));
  kernels.impl("convolution_overrideable", TORCH_FN(convolution));
  kernels.impl(
      "convolution_backward_overrideable", TORCH_FN(convolution_backward));
  let_copies_through<c10::DispatchKey::Conjugate>();
  let_copies_through<c10::DispatchKey::Negative>();
}

HostCopies host_copies() {
  return {to_host, to_device, bytes_to_device};
}

} // namespace torchlora::test
