#pragma once

#include <optional>

#include <c10/core/ScalarType.h>
#include <torchlora/types.h>

#include <torchlora/export.h>

// Compute follows the CPU, storage follows the checkpoint. On a CPU without
// bf16 or fp16 instructions LibTorch's products in these dtypes are slower than
// fp32 by up to two orders of magnitude. There the weight stays in its dtype in
// memory, and a product upcasts one block of its rows at a time into a small
// fp32 buffer. The values agree to rounding, the speed is that of fp32, and no
// fp32 copy of the model exists. The route is chosen once per process.
//
// A layer's output has the dtype of its input. So a model with bf16 weights
// that passes fp32 from layer to layer keeps the digits that an adapter adds.
// The first updates of a training are smaller than the rounding of a bf16
// output.

namespace torchlora::nn {

/// How a layer on the CPU multiplies by a weight in bf16 or fp16.
enum class ComputeRoute {
  /// LibTorch's kernels multiply in the weight's dtype. They round an fp32
  /// input to it, as under autocast.
  kNative,
  /// torchlora converts one block of the weight's rows at a time to fp32 and
  /// multiplies in fp32, in forward and in backward.
  kUpcast,
};

/// Returns how a CPU layer multiplies by a weight of `dtype`. The route that
/// `set_compute_route` or TORCHLORA_COMPUTE_ROUTE forces comes first. Otherwise
/// the route is native if the CPU multiplies that dtype (bf16: AVX512-BF16,
/// which every CPU with AMX has; fp16: AVX512-FP16), and upcast if not. fp32,
/// fp64 and layers on other devices always use the native route.
TORCHLORA_API ComputeRoute
compute_route(at::ScalarType dtype = at::ScalarType::BFloat16);

/// Makes every CPU layer with a bf16 or fp16 weight compute by `route`, in the
/// whole process; `nullopt` ends this. The environment variable
/// TORCHLORA_COMPUTE_ROUTE (`native` or `upcast`) does the same. The first
/// product throws ValueError if the variable has another value.
TORCHLORA_API void set_compute_route(std::optional<ComputeRoute> route);

/// Computes y = x Wᵀ + b: `input` x [*, in], `weight` W [out, in], `bias` b
/// [out] or undefined. The result y [*, out] has the input's dtype and the
/// values of `torch::nn::functional::linear` to the rounding of that dtype.
/// Supports first-order gradients of all three tensors.
///
/// The input may be fp32 where `weight` is bf16 or fp16. The upcast route then
/// computes in fp32. The native route rounds x and x Wᵀ to the dtype of W, as
/// autocast does, and adds b in fp32. The input may also have any other
/// floating dtype; the product is then computed in fp32 on either route.
TORCHLORA_API Tensor
linear(const Tensor& input, const Tensor& weight, const Tensor& bias = {});

/// Computes x Wᵀ without rounding to the dtype of a bf16 or fp16 weight, on
/// either route: `input` x [*, in] in fp32 or fp64, `weight` W [out, in]. The
/// result [*, out] has the input's dtype. Not differentiable.
TORCHLORA_API Tensor linear_in_fp32(const Tensor& input, const Tensor& weight);

/// Computes g W (g conj(W) for a complex W), the gradient of `linear` with
/// respect to its input: `grad_output` g [*, out], `weight` W [out, in]. The
/// result [*, in] has the dtype of `grad_output`; an fp32 `grad_output` meets a
/// bf16 or fp16 weight as the input of `linear` does. The backward of a custom
/// autograd function calls it. Not differentiable itself.
TORCHLORA_API Tensor
linear_backward_input(const Tensor& grad_output, const Tensor& weight);

} // namespace torchlora::nn
