#pragma once

#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>

namespace torchlora::cli {

struct MergeReport {
  /// The largest difference of logits between the adapted model before the
  /// merge and the merged model loaded from its files, both in the dtype of the
  /// model.
  double largest_difference = 0;
  /// The largest difference of logits between the adapted model and the base
  /// model: the effect of the adapter.
  double largest_effect = 0;
  int64_t num_positions = 0;
  /// The layers whose merged weight differs from the adapted one by more than
  /// rounding to its dtype explains.
  std::vector<std::string> doubtful_layers;
};

/// Merges the active adapters into `model`, writes a complete Hugging Face
/// folder like the one it was loaded from, and loads that. Compares the merged
/// weights with the adapted ones in fp32, and the logits at `positions`
/// (row · T + t, at most 64 of them) of `input_ids` [B, T].
///
/// Warns, and keeps the folder, if the merge changed more than rounding
/// explains. Error if the files do not have the merged weights.
MergeReport merge_and_save(
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const std::filesystem::path& destination,
    const Tensor& input_ids,
    const Tensor& positions);

} // namespace torchlora::cli
