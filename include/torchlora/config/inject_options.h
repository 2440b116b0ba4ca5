#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <string>

#include <torch/arg.h>
#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora {

/// Statistics from sample data, by module name: what `preprocess_corda` and
/// `preprocess_loraga` return.
using InitStatistics = std::map<std::string, Tensor>;

/// Called after each layer that an injection initializes.
using InitProgress = std::function<
    void(size_t done, size_t total, const std::string& module_name)>;

/// Options for one injection, in contrast to `LoraConfig`, which describes the
/// adapter and is saved with it.
///
///     torchlora::get_peft_model(
///         *model,
///         config,
///         "default",
///         torchlora::InjectOptions().autocast_adapter_dtype(false));
struct TORCHLORA_API InjectOptions {
  InjectOptions() = default;
  /// Whether adapters of bf16 and fp16 layers are fp32; if not, they have the
  /// dtype of the layer.
  TORCH_ARG(bool, autocast_adapter_dtype) = true;
  /// Statistics for initializers that need them ("corda", "lora_ga").
  TORCH_ARG(InitStatistics, init_statistics);
  /// Progress callback.
  TORCH_ARG(InitProgress, init_progress);
};

} // namespace torchlora
