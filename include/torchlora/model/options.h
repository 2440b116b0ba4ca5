#pragma once

#include <string>
#include <vector>

#include <torch/arg.h>

#include <torchlora/export.h>

namespace torchlora {

/// Options of `PeftModel::merge_adapter` and `merge_and_unload`, by PEFT's
/// names.
///
///     peft.merge_adapter(MergeOptions().safe_merge(true).adapter_names({"a"}));
struct TORCHLORA_API MergeOptions {
  MergeOptions() = default;
  /// Nothing is written if a merged value is not finite.
  TORCH_ARG(bool, safe_merge) = false;
  /// Empty: the active adapters.
  TORCH_ARG(std::vector<std::string>, adapter_names);
};

/// Options of `PeftModel::from_pretrained` and `load_adapter`, by PEFT's names.
struct TORCHLORA_API LoadOptions {
  LoadOptions() = default;
  /// Whether the adapter trains; if not, it is frozen and `from_pretrained`
  /// puts the model into eval mode.
  TORCH_ARG(bool, is_trainable) = false;
  /// Whether missing, unexpected and mis-shaped tensors are a DataError; if
  /// not, a warning, and what is missing is zero (after pissa and olora what
  /// they made it).
  TORCH_ARG(bool, strict) = true;
};

} // namespace torchlora
