#pragma once

#include <optional>

#include <torch/arg.h>

#include <torchlora/lora/base_weight.h>

namespace torchlora {

/// How `PeftModel::add_weighted_adapter` combines updates; PEFT's names and
/// defaults.
struct TORCHLORA_API CombinationOptions {
  /// Leaves all but the type at PEFT's defaults.
  CombinationOptions(std::string combination_type = "svd")
      : combination_type_(std::move(combination_type)) {}

  /// Whether the type needs a `density`.
  bool prunes() const;
  /// Whether the factors are combined one by one.
  bool is_by_factor() const;
  /// ValueError for an unknown type and for values that do not fit it.
  void validate() const;

  /// "cat" is exact: the ranks add up. "svd" is the best approximation of rank
  /// `svd_rank`. "linear", "magnitude_prune", "ties" (arXiv:2306.01708),
  /// "dare_linear" and "dare_ties" (arXiv:2311.03099) combine the factors one
  /// by one, which is a rough approximation. "magnitude_prune_svd", "ties_svd",
  /// "dare_linear_svd" and "dare_ties_svd" combine the whole updates and
  /// approximate the result.
  TORCH_ARG(std::string, combination_type);
  /// Rank for the types that end in "svd"; none: the largest of the adapters.
  TORCH_ARG(std::optional<int64_t>, svd_rank);
  /// Quantile at which the factors of an approximation are clamped.
  TORCH_ARG(std::optional<double>, svd_clamp);
  /// Share of the values that stay, in (0, 1]; the types that prune need it.
  TORCH_ARG(std::optional<double>, density);
  /// "total" or "frequency"; for the "ties" types.
  TORCH_ARG(std::string, majority_sign_method) = "total";
};

/// One update, weight · scaling · B A.
struct WeightedUpdate {
  /// [r, in]
  Tensor A;
  /// [out, r]
  Tensor B;
  double scaling;
  double weight;
};

/// The factors of a combination, B A.
struct CombinedUpdate {
  /// [rank, in]
  Tensor A;
  /// [out, rank]
  Tensor B;
};

/// Combines updates of one layer. DARE draws from the default generator
/// as PEFT does, for whole updates in the order of the weight's `layout`.
TORCHLORA_API CombinedUpdate combine_updates(
    const std::vector<WeightedUpdate>& updates,
    const CombinationOptions& options,
    int64_t rank,
    WeightLayout layout = WeightLayout::kOutIn);

} // namespace torchlora
