#pragma once

#include <torchlora/model.h>

namespace torchlora {

/// An intruder dimension: a left singular vector of an adapted weight that is
/// not similar to any left singular vector of the base weight.
struct IntruderDimension {
  /// The position of its singular value among those of the adapted weight in
  /// descending order, from 0.
  int64_t index;
  /// Its singular value in the adapted weight.
  double singular_value;
  /// The largest absolute cosine similarity between this vector and a left
  /// singular vector of the base weight.
  double cosine;
};

/// The intruder dimensions of one layer, by ascending index.
struct LayerIntruders {
  /// The name of the adapted module.
  std::string module;
  std::vector<IntruderDimension> intruders;
};

/// Returns the intruder dimensions of every layer of an adapter. These are the
/// vectors among the `top_k` leading left singular vectors of W + scaling · B A
/// whose absolute cosine similarity to every left singular vector of W is below
/// `threshold_epsilon`. Shuttleworth et al. 2024, arXiv:2410.21228. ValueError
/// for an unknown or DoRA adapter, for one that changed the base weights, and
/// while adapters are merged.
TORCHLORA_API std::vector<LayerIntruders> intruder_dimensions(
    const PeftModel& peft,
    const std::string& adapter_name = "default",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5);

/// Copies an adapter to `new_adapter_name`, weakens the intruder dimensions of
/// the copy and makes the copy the active adapter. The adapted weight keeps the
/// fraction `mitigation_lambda` of each intruder (1: all, 0: none). Ranks do
/// not change, nor do the factors of layers without intruders. Returns the
/// intruders of the old adapter. ValueError as for `intruder_dimensions`, and
/// if the new name is taken. PEFT's `reduce_intruder_dimension`.
TORCHLORA_API std::vector<LayerIntruders> reduce_intruder_dimension(
    PeftModel& peft,
    const std::string& old_adapter_name = "default",
    const std::string& new_adapter_name = "intruder_reduced",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5,
    double mitigation_lambda = 0.75);

} // namespace torchlora
