#pragma once

#include <string>
#include <vector>

#include <torchlora/detail/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// The options of `PeftModel::merge_adapter` and `merge_and_unload`, with
/// PEFT's names.
///
///     peft.merge_adapter(MergeOptions().safe_merge(true).adapter_names({"a"}));
struct TORCHLORA_API MergeOptions {
  MergeOptions() = default;
  /// Whether the merge checks first that all merged weights are finite, and
  /// throws ValueError without a change if one is not.
  TORCHLORA_ARG(bool, safe_merge) = false;
  /// The adapters to merge. Empty: the active adapters.
  TORCHLORA_ARG(std::vector<std::string>, adapter_names);
};

/// The options of `PeftModel::from_pretrained` and `load_adapter`.
/// `is_trainable` is PEFT's; `strict(false)` stands for PEFT's
/// `ignore_mismatched_sizes=True`.
struct TORCHLORA_API LoadOptions {
  LoadOptions() = default;
  /// Whether the tensors of the loaded adapter require a gradient. False: they
  /// are frozen, and `from_pretrained` puts the model into eval mode.
  TORCHLORA_ARG(bool, is_trainable) = false;
  /// Whether missing, unexpected and mis-shaped tensors in the file are a
  /// DataError. False: they cause a warning, and a missing tensor keeps its
  /// initial value, which is zero (for PiSSA and OLoRA the initializer's).
  TORCHLORA_ARG(bool, strict) = true;
};

} // namespace torchlora
