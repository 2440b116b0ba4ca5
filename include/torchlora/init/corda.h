#pragma once

#include <torch/types.h>

#include <torchlora/init/detail/decompose.h>

namespace torchlora::init {

/// Returns the inverse of the symmetric, nominally positive definite `matrix`,
/// by a Cholesky factorization if it succeeds.
inline Tensor inverse_of(const Tensor& matrix) {
  const auto [factor, info] = at::linalg_cholesky_ex(matrix);
  return info.item<int64_t>() == 0 ? at::cholesky_inverse(factor)
                                   : std::get<0>(at::linalg_inv_ex(matrix));
}

/// Returns (C, C⁻¹), where C is `covariance` [n, n] plus 0.01 · 2^k times its
/// mean diagonal on the diagonal. k is the smallest number from 0 with ‖C C⁻¹ −
/// I‖ < 0.05. ValueError if there is none with 0.01 · 2^k < 1e6.
inline std::pair<Tensor, Tensor> damped_inverse(const Tensor& covariance) {
  constexpr double tolerance = 0.05, largest = 1e6;
  const auto mean = covariance.diagonal().mean();
  const auto identity = at::eye(covariance.size(0), covariance.options());
  for (double damp = 0.01; damp < largest; damp *= 2) {
    auto damped = covariance + identity * (mean * damp);
    auto inverse = inverse_of(damped);
    const auto error = at::dist(at::mm(damped, inverse), identity);
    if (error.item<double>() < tolerance) {
      return {std::move(damped), std::move(inverse)};
    }
  }
  TORCH_CHECK_VALUE(
      false,
      "[init_lora_weights] corda: the covariance of the layer's input cannot "
      "be inverted; give preprocess_corda data that reach the layer");
}

/// The initializer "corda". With the covariance C of the layer's input
/// (`preprocess_corda`) and W C = U S Vᵀ, it sets A and B so that scaling · B A
/// = U S Vᵀ C⁻¹ restricted to the r largest components (`corda_method` "ipm",
/// which learns the task) or the r smallest ("kpm", which preserves the model's
/// knowledge). `LoraLayer::commit_adapter` then subtracts scaling · B A from
/// the base weight, so that the adapted layer starts as the base layer. Yang et
/// al. 2024, arXiv:2406.05223.
inline void corda_init(Factors& factors, const Arguments& arguments) {
  const auto weight = weight_to_decompose(arguments, "corda");
  const auto& covariance = statistics_for(
      arguments,
      "corda",
      "preprocess_corda(model, config, run_model)",
      {weight.size(1), weight.size(1)});
  const auto options = arguments.config.corda_config().value_or(CordaConfig());
  const auto& method = options.corda_method();
  const auto [damped, inverse] =
      damped_inverse(covariance.to(weight.options()));
  const auto product = at::mm(weight, damped);
  const auto r = arguments.r;
  Triplets triplets;
  if (method == "ipm") {
    triplets = leading_triplets(product, r);
    // Vᵀ C⁻¹ = S⁻¹ Uᵀ W; a component that is 0 has no direction.
    const auto S = triplets.S;
    triplets.V = at::where(S > 0, at::mm(weight.t(), triplets.U) / S, 0);
  } else {
    triplets = last_triplets(product, r);
    triplets.V = at::mm(inverse.t(), triplets.V);
  }
  share_out(factors, triplets, arguments.scaling);
}

} // namespace torchlora::init
