#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <torchlora/export.h>
#include <torchlora/model.h>

namespace torchlora {

/// A left singular vector of an adapted weight that no left singular vector of
/// the base weight is like.
struct IntruderDimension {
  /// Its place among the singular values, from the largest.
  int64_t index;
  /// Of the adapted weight.
  double singular_value;
  /// The largest |cosine| to one of the base weight's.
  double cosine;
};

/// The intruders of one layer.
struct LayerIntruders {
  /// The module's name.
  std::string module;
  /// By index; empty: the layer has none.
  std::vector<IntruderDimension> intruders;
};

/// Of every layer of an adapter the intruders among the `top_k` leading
/// dimensions of W + scaling · B A: those whose largest |cosine| to a left
/// singular vector of W is below `threshold_epsilon`. Shuttleworth et al.
/// 2024, arXiv:2410.21228. ValueError for an adapter that is unknown or DoRA,
/// that changed the base weights, and while adapters are merged.
TORCHLORA_API std::vector<LayerIntruders> intruder_dimensions(
    const PeftModel& peft,
    const std::string& adapter_name = "default",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5);

/// Adds an adapter in which `mitigation_lambda` of each intruder's part of the
/// adapted weight is left (1: all, 0: none), of the same ranks, and makes it
/// the active one; the old adapter stays. Layers without intruders keep their
/// factors. Returns what was found, under the conditions and errors of
/// `intruder_dimensions`; ValueError, too, for a new name that is taken.
/// PEFT's `reduce_intruder_dimension`.
TORCHLORA_API std::vector<LayerIntruders> reduce_intruder_dimension(
    PeftModel& peft,
    const std::string& old_adapter_name = "default",
    const std::string& new_adapter_name = "intruder_reduced",
    int64_t top_k = 10,
    double threshold_epsilon = 0.5,
    double mitigation_lambda = 0.75);

} // namespace torchlora
