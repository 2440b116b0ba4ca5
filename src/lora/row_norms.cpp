#include <torchlora/detail/row_norms.h>

#include <torch/types.h>

#include <torchlora/nn/compute.h>

namespace torchlora::detail {

Tensor row_norms(
    const Tensor& weight,
    const Tensor& A,
    const Tensor& B,
    double scaling) {
  torch::NoGradGuard no_grad;
  const auto dtype = c10::promoteTypes(
      c10::promoteTypes(weight.scalar_type(), A.scalar_type()), at::kFloat);
  const auto a = A.to(dtype), b = B.to(dtype);
  const auto norm = at::linalg_vector_norm(weight, 2, {1}, false, dtype);
  // w Aᵀ, [out, r]
  const auto cross = nn::linear_in_fp32(a, weight).t();
  const auto inner = cross.mul(2 * scaling)
                         .add_(at::mm(b, at::mm(a, a.t())), scaling * scaling)
                         .mul_(b)
                         .sum(1);
  return norm.square().add_(inner).clamp_min_(0).sqrt_();
}

} // namespace torchlora::detail
