#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include <ATen/core/Tensor.h>

#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>

namespace torchlora::cli {

struct MergeReport {
  /// Between the adapted model before the merge and the merged model as it
  /// was loaded again.
  double largest_difference = 0;
  /// Between the adapted model and the base model: what the adapter does.
  double largest_effect = 0;
  int64_t num_positions = 0;
};

/// Merges the active adapters into `model`, writes a whole Hugging Face
/// folder like the one it came from and loads that again. Logits are compared
/// at `positions` (row · T + t, at most 64 of them) of `input_ids` [B, T].
/// `c10::Error` if the merge changes them by more than the model's dtype
/// explains, and if what was written is not what was merged.
MergeReport merge_and_save(
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const std::filesystem::path& destination,
    const at::Tensor& input_ids,
    const at::Tensor& positions);

} // namespace torchlora::cli
