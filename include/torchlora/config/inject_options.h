#pragma once

#include <cstddef>
#include <functional>
#include <map>

#include <torchlora/detail/arg.h>
#include <torchlora/types.h>

#include <torchlora/export.h>

namespace torchlora {

/// Statistics from sample data, one tensor per module name. `preprocess_corda`
/// and `preprocess_loraga` return them; an injection passes them to the
/// initializer.
using InitStatistics = std::map<std::string, Tensor>;

/// A callback that an injection calls after it has initialized each layer:
/// `done` of `total` layers, the last being `module_name`.
using InitProgress = std::function<
    void(size_t done, size_t total, const std::string& module_name)>;

/// The options of one injection of an adapter into a model. They are not saved,
/// unlike `LoraConfig`, which describes the adapter.
///
///     torchlora::get_peft_model(
///         *model,
///         config,
///         "default",
///         torchlora::InjectOptions().autocast_adapter_dtype(false));
struct TORCHLORA_API InjectOptions {
  InjectOptions() = default;
  /// Whether adapters of fp16 and bf16 layers are stored as fp32. False: an
  /// adapter has the dtype of its layer.
  TORCHLORA_ARG(bool, autocast_adapter_dtype) = true;
  /// Statistics by module name, for the initializers that need them ("corda",
  /// "lora_ga").
  TORCHLORA_ARG(InitStatistics, init_statistics);
  /// A function that is called after each layer has been initialized; empty:
  /// none.
  TORCHLORA_ARG(InitProgress, init_progress);
};

} // namespace torchlora
