#pragma once

#include <optional>

#include <torchlora/detail/arg.h>

#include <torchlora/lora/base_weight.h>

namespace torchlora {

/// The options of `PeftModel::add_weighted_adapter`: how it combines the
/// updates of several adapters into one. PEFT's names and defaults.
struct TORCHLORA_API CombinationOptions {
  /// Sets the combination type. The other options have PEFT's defaults.
  CombinationOptions(std::string combination_type = "svd")
      : combination_type_(std::move(combination_type)) {}

  /// Returns whether the combination type sets part of the values to zero and
  /// so needs a `density`: true for "magnitude_prune", "ties", "dare_…" and
  /// their "_svd" forms.
  bool prunes() const;
  /// Returns whether the combination type combines the A factors and the B
  /// factors separately, as "linear" does, instead of whole updates B A.
  bool is_by_factor() const;
  /// Throws ValueError for an unknown combination type and for option values
  /// that do not fit it.
  void validate() const;

  /// How updates are combined. "cat" is exact: the ranks add up. "svd" is the
  /// best approximation of rank `svd_rank` of the exact sum. "linear",
  /// "magnitude_prune", "ties" (arXiv:2306.01708), "dare_linear" and
  /// "dare_ties" (arXiv:2311.03099) combine the A factors and the B factors
  /// separately, a rough approximation. The same names with "_svd" appended
  /// (not "linear") combine the products B A and approximate the result.
  TORCHLORA_ARG(std::string, combination_type);
  /// Rank of the combined adapter, for the types that end in "svd". Default:
  /// the largest rank of the combined adapters.
  TORCHLORA_ARG(std::optional<int64_t>, svd_rank);
  /// Quantile in [0, 1] at which the types that end in "svd" clamp the values
  /// of the new A and B. Default: no clamping.
  TORCHLORA_ARG(std::optional<double>, svd_clamp);
  /// Share of the values, in (0, 1], that the pruning types do not set to zero.
  /// The types for which `prunes()` holds require it.
  TORCHLORA_ARG(std::optional<double>, density);
  /// How the "ties" types choose the sign of each value: "total" takes the sign
  /// of the sum, "frequency" the more frequent sign.
  TORCHLORA_ARG(std::string, majority_sign_method) = "total";
};

/// One update to combine, weight · scaling · B A.
struct WeightedUpdate {
  /// Factor A, [r, in_features].
  Tensor A;
  /// Factor B, [out_features, r].
  Tensor B;
  double scaling;
  double weight;
};

/// The result of a combination, the update B A. Its scaling is 1.
struct CombinedUpdate {
  /// Factor A, [rank, in_features].
  Tensor A;
  /// Factor B, [out_features, rank].
  Tensor B;
};

/// Combines several updates of one layer into one and returns its factors.
/// `rank` limits the rank of the types that end in "svd". The "dare" types draw
/// from the default generator as PEFT does; for a product B A the draws follow
/// the weight's `layout`.
TORCHLORA_API CombinedUpdate combine_updates(
    const std::vector<WeightedUpdate>& updates,
    const CombinationOptions& options,
    int64_t rank,
    WeightLayout layout = WeightLayout::kOutIn);

} // namespace torchlora
