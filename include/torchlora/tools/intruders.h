#pragma once

#include <torchlora/model.h>

namespace torchlora {

/// A left singular vector of an adapted weight that is not similar to any left
/// singular vector of the base weight.
struct IntruderDimension {
  /// Number of the singular value in descending order, from 0.
  int64_t index;
  /// The singular value of the adapted weight.
  double singular_value;
  /// The largest |cosine| to a left singular vector of the base weight.
  double cosine;
};

/// The intruders of one layer, in the order of their indices.
struct LayerIntruders {
  /// The module's name.
  std::string module;
  std::vector<IntruderDimension> intruders;
};

/// Returns the intruders of every layer of an adapter. An intruder is one of
/// the `top_k` leading left singular vectors of W + scaling · B A whose
/// |cosine| to every left singular vector of W is below `threshold_epsilon`.
/// Shuttleworth et al. 2024, arXiv:2410.21228. ValueError for an adapter that
/// is unknown, is a DoRA or changed the base weights, and while adapters are
/// merged.
TORCHLORA_API std::vector<LayerIntruders> intruder_dimensions(
    const PeftModel& peft,
    const std::string& adapter_name = "default",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5);

/// Adds a copy of an adapter with weaker intruders and makes it the active one.
/// The adapted weight keeps the share `mitigation_lambda` of each intruder (1:
/// all, 0: none). Ranks stay, and so do the factors of layers without
/// intruders. Returns the intruders that were found, with the errors of
/// `intruder_dimensions`; ValueError also for a new name that is taken. PEFT's
/// `reduce_intruder_dimension`.
TORCHLORA_API std::vector<LayerIntruders> reduce_intruder_dimension(
    PeftModel& peft,
    const std::string& old_adapter_name = "default",
    const std::string& new_adapter_name = "intruder_reduced",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5,
    double mitigation_lambda = 0.75);

} // namespace torchlora
