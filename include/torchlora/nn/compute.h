#pragma once

#include <optional>

#include <c10/core/ScalarType.h>
#include <torchlora/tensor.h>

#include <torchlora/export.h>

// Compute follows the CPU, storage follows the checkpoint. On a CPU without
// bf16 or fp16 instructions LibTorch's products in these dtypes are slower than
// fp32 by up to two orders of magnitude. There the weight stays in its dtype in
// memory, and a product upcasts one block of its rows at a time into a small
// fp32 buffer. The values agree to rounding, the speed is that of fp32, and no
// fp32 copy of the model exists. The route is chosen once per process.

namespace torchlora::nn {

/// The way to compute the matrix product of a layer with a bf16 or fp16 weight.
enum class ComputeRoute {
  /// LibTorch's kernels in the weight's dtype.
  kNative,
  /// fp32 products with blocks of the weight's rows, in forward and in
  /// backward.
  kUpcast,
};

/// Returns the route of a CPU layer whose weight has `dtype`: the forced route,
/// or native if the CPU multiplies that dtype (bf16: AVX512-BF16, which every
/// CPU with AMX has; fp16: AVX512-FP16), or upcast. fp32 and fp64 are always
/// native, and so are layers on other devices.
TORCHLORA_API ComputeRoute
compute_route(at::ScalarType dtype = at::ScalarType::BFloat16);

/// Forces a route for the process; `nullopt` returns to the CPU's own route.
/// The environment variable TORCHLORA_COMPUTE_ROUTE (`native` or `upcast`) does
/// the same; any other value is a ValueError on first use.
TORCHLORA_API void set_compute_route(std::optional<ComputeRoute> route);

/// Computes y = x Wᵀ + b: `input` [*, in], `weight` [out, in], `bias` [out] or
/// undefined; the output [*, out] has the input's dtype. The values are those
/// of `torch::nn::functional::linear` to the rounding of the input's dtype.
/// Differentiable once in all three. A half-precision weight on the CPU also
/// accepts an input of another floating dtype and is then upcast on either
/// route.
TORCHLORA_API Tensor
linear(const Tensor& input, const Tensor& weight, const Tensor& bias = {});

/// Computes g W, the gradient of `linear` with respect to its input, for
/// autograd functions that contain such a product. `grad_output` [*, out]; the
/// result [*, in] has the same dtype. Not differentiable.
TORCHLORA_API Tensor
linear_backward_input(const Tensor& grad_output, const Tensor& weight);

} // namespace torchlora::nn
