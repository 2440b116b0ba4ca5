#pragma once

#include <filesystem>
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
  /// Whether PEFT trained the adapter, which adds the update of a
  /// MultiheadAttention's `out_proj` twice. B of `out_proj` is doubled then, so
  /// that the layer computes what it computes in PEFT. A file that was saved
  /// with `SaveOptions::peft_multihead_attention` is recognized without it.
  TORCHLORA_ARG(bool, peft_multihead_attention) = false;
};

/// The options of `PeftModel::save_pretrained`, with PEFT's names.
struct TORCHLORA_API SaveOptions {
  SaveOptions() = default;
  /// The adapters to save. Empty: all.
  TORCHLORA_ARG(std::vector<std::string>, selected_adapters);
  /// The folder in which you saved an adapter by an initializer that changes
  /// the base weights (PiSSA, OLoRA) before training. Empty: none.
  TORCHLORA_ARG(
      std::filesystem::path,
      path_initial_model_for_weight_conversion);
  /// Whether PEFT is to compute what the model computes here. PEFT adds the
  /// update of a MultiheadAttention's `out_proj` twice, so half of its B is
  /// written. The file is marked, and loading it here restores B. ValueError
  /// for a variant such as DoRA, which PEFT refuses in such layers.
  TORCHLORA_ARG(bool, peft_multihead_attention) = false;
};

} // namespace torchlora
