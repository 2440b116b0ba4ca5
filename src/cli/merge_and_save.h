#pragma once

#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>

namespace torchlora::cli {

struct MergeReport {
  /// The largest difference of logits between the adapted model before the
  /// merge and the merged model loaded from its files.
  double largest_difference = 0;
  /// The largest difference of logits between the adapted model and the base
  /// model: the effect of the adapter.
  double largest_effect = 0;
  int64_t num_positions = 0;
};

/// Merges the active adapters into `model`, writes a complete Hugging Face
/// folder like the one it was loaded from, and loads that. Compares the logits
/// at `positions` (row · T + t, at most 64 of them) of `input_ids` [B, T].
/// Error if the merge changes them by more than the rounding of the dtype, or
/// if the files do not have the merged weights.
MergeReport merge_and_save(
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const std::filesystem::path& destination,
    const Tensor& input_ids,
    const Tensor& positions);

} // namespace torchlora::cli
