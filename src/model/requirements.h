#pragma once

#include "model/state.h"

namespace torchlora {

/// What a verb may demand of an adapter.
enum class Requirement {
  /// Its update is added to the weight: no DoRA.
  kSum,
  /// It has no modules_to_save, biases or rows of tables.
  kNoOwnTensors,
  /// Neither its initializer nor its variant changed the base weights.
  kUnchangedBase,
  /// It has no target_parameters.
  kNoParameters,
  /// It is merged nowhere.
  kUnmerged,
  /// No adapter is merged anywhere.
  kNothingMerged,
};

/// ValueError "[function] adapter NAME …, hint" if the adapter is not so.
/// `sites` are the model's `lora_sites`.
void require(
    Requirement requirement,
    const char* function,
    PeftState& state,
    const std::vector<TargetSite>& sites,
    const std::string& adapter_name,
    const char* hint);

} // namespace torchlora
