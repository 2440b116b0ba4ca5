#include <torch/types.h>

#include "init/decompose.h"

namespace torchlora::init {
namespace {

/// Of a positive definite matrix.
at::Tensor inverse_of(const at::Tensor& matrix) {
  const auto [factor, info] = at::linalg_cholesky_ex(matrix);
  return info.item<int64_t>() == 0 ? at::cholesky_inverse(factor)
                                   : std::get<0>(at::linalg_inv_ex(matrix));
}

/// The covariance with as little as it takes added to its diagonal that its
/// inverse is one, and the inverse.
std::pair<at::Tensor, at::Tensor> invertible(const at::Tensor& covariance) {
  constexpr double kTolerance = 0.05, kMost = 1e6;
  const auto mean = covariance.diagonal().mean();
  const auto identity = at::eye(covariance.size(0), covariance.options());
  for (double damp = 0.01; damp < kMost; damp *= 2) {
    auto damped = covariance + identity * (mean * damp);
    auto inverse = inverse_of(damped);
    const auto error = at::dist(at::mm(damped, inverse), identity);
    if (error.item<double>() < kTolerance) {
      return {std::move(damped), std::move(inverse)};
    }
  }
  TORCH_CHECK_VALUE(
      false,
      "[init_lora_weights] corda: the covariance of the layer's input cannot "
      "be inverted; give preprocess_corda data that reach the layer");
}

} // namespace

void corda_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "corda");
  const auto& covariance =
      statistics_for(arguments, "corda", {weight.size(1), weight.size(1)});
  const auto method =
      arguments.config.corda_config().value_or(CordaConfig()).corda_method();
  const auto [damped, inverse] = invertible(covariance.to(weight.options()));
  const auto product = at::mm(weight, damped);
  const auto r = arguments.r;
  Triplets triplets;
  if (method == "ipm") {
    triplets = leading_triplets(product, r);
    // Vᵀ C⁻¹ = S⁻¹ Uᵀ W
    triplets.V = at::mm(weight.t(), triplets.U) / triplets.S;
  } else {
    triplets = last_triplets(product, r);
    triplets.V = at::mm(inverse.t(), triplets.V);
  }
  share_out(factors, triplets, arguments.scaling);
  factors.subtract = true;
}

} // namespace torchlora::init
