#pragma once

#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <torchlora/export.h>

namespace torchlora::nn {

/// How the matrix product of a layer with a bf16 or fp16 weight is computed.
enum class ComputeRoute {
  /// By LibTorch's kernels in the weight's dtype.
  kNative,
  /// The weight stays in its dtype in memory and is upcast a block of rows at
  /// a time into a small fp32 buffer, in forward and in backward.
  kUpcast,
};

/// The route of a CPU layer whose weight has `dtype`: the forced one, else
/// native where the hardware multiplies that dtype (bf16: AVX512-BF16, which
/// every CPU with AMX has; fp16: AVX512-FP16), else upcast. fp32 and fp64 are
/// always native, and so are layers on other devices.
TORCHLORA_API ComputeRoute
compute_route(at::ScalarType dtype = at::ScalarType::BFloat16);

/// Forces a route for the process; `nullopt` goes back to the CPU's own.
/// The environment variable TORCHLORA_COMPUTE_ROUTE (`native` or `upcast`)
/// does the same; ValueError on first use if it is anything else.
TORCHLORA_API void set_compute_route(std::optional<ComputeRoute> route);

/// y = x Wᵀ + b by the route in force. `input` [*, in], `weight` [out, in],
/// `bias` [out] or undefined; the output [*, out] has the input's dtype.
/// Same values as `torch::nn::functional::linear` to the rounding of the
/// input's dtype; differentiable (once) in all three. A half-precision weight
/// on the CPU takes an input of any other floating dtype too, by upcast on
/// either route.
TORCHLORA_API at::Tensor linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias = {});

/// g W by the route in force: the gradient of `linear` with respect to its
/// input, for autograd functions that hold such a product. `grad_output`
/// [*, out]; the result [*, in] has its dtype. Not differentiable itself.
TORCHLORA_API at::Tensor linear_backward_input(
    const at::Tensor& grad_output,
    const at::Tensor& weight);

} // namespace torchlora::nn
