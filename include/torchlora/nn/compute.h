#pragma once

#include <optional>

#include <ATen/core/Tensor.h>

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

/// The route in force on the CPU: the forced one, else native where the
/// hardware multiplies bf16 (AVX512-BF16, AMX), else upcast. Layers on other
/// devices and fp32 and fp64 layers are always native.
TORCHLORA_API ComputeRoute compute_route();

/// Forces a route for the process; `nullopt` goes back to the CPU's own.
/// The environment variable TORCHLORA_COMPUTE_ROUTE (`native` or `upcast`)
/// does the same.
TORCHLORA_API void set_compute_route(std::optional<ComputeRoute> route);

/// y = x Wᵀ + b by the route in force. `input` [*, in], `weight` [out, in],
/// `bias` [out] or undefined; the output [*, out] has the input's dtype.
/// Same values as `torch::nn::functional::linear` to the rounding of the
/// input's dtype; differentiable in all three.
TORCHLORA_API at::Tensor linear(
    const at::Tensor& input,
    const at::Tensor& weight,
    const at::Tensor& bias = {});

} // namespace torchlora::nn
