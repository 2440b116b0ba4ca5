#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/arg.h>

#include <torchlora/export.h>
#include <torchlora/lora/base_weight.h>

namespace torchlora {

/// How updates become one; the names and defaults of PEFT's
/// `add_weighted_adapter`.
struct TORCHLORA_API CombinationOptions {
  /// Of this type, the rest as in PEFT.
  CombinationOptions(std::string combination_type = "svd")
      : combination_type_(std::move(combination_type)) {}

  /// Whether the type needs a `density`.
  bool prunes() const;
  /// Whether the factors are combined one by one.
  bool is_by_factor() const;
  /// ValueError for what cannot be.
  void validate() const;

  /// Exact: "cat" (the ranks add up), "svd" (the best approximation of
  /// `svd_rank`). On the factors one by one, which is a rough approximation:
  /// "linear", "magnitude_prune", "ties" (arXiv:2306.01708), "dare_linear",
  /// "dare_ties" (arXiv:2311.03099). On whole updates, then approximated:
  /// "magnitude_prune_svd", "ties_svd", "dare_linear_svd", "dare_ties_svd".
  TORCH_ARG(std::string, combination_type);
  /// Rank of the kinds that end in "svd"; none: the largest of the adapters.
  TORCH_ARG(std::optional<int64_t>, svd_rank);
  /// Quantile at which the factors of an approximation are clamped.
  TORCH_ARG(std::optional<double>, svd_clamp);
  /// Share of the values that stay, in (0, 1]; the kinds that prune need it.
  TORCH_ARG(std::optional<double>, density);
  /// Of the "ties" kinds: "total" or "frequency".
  TORCH_ARG(std::string, majority_sign_method) = "total";
};

/// One update, weight · scaling · B A.
struct WeightedUpdate {
  /// [r, in]
  at::Tensor A; // [r, in]
  /// [out, r]
  at::Tensor B; // [out, r]
  /// @{
  /// What B A is multiplied by.
  double scaling;
  double weight;
  /// @}
};

/// The factors of a combination.
struct CombinedUpdate {
  /// @{
  /// A [r, in], B [out, r].
  at::Tensor A, B;
  /// @}
};

/// The factors of the combination, B A. DARE draws from the default generator
/// as PEFT does, for whole updates in the order of the weight's `layout`.
TORCHLORA_API CombinedUpdate combine_updates(
    const std::vector<WeightedUpdate>& updates,
    const CombinationOptions& options,
    int64_t rank,
    WeightLayout layout = WeightLayout::kOutIn);

} // namespace torchlora
