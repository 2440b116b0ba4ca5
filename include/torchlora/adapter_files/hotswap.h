#pragma once

#include <torchlora/model.h>

namespace torchlora {

/// Replaces the weights, ranks, scalings and configuration of a loaded adapter
/// by those of an adapter in a folder. Whether it is active and trainable does
/// not change. Tensors of equal sizes are overwritten in place. A layer that
/// the folder does not adapt gets an update of zero. PEFT's `hotswap_adapter`,
/// which also demands equal `use_rslora` and `alpha_pattern` and keeps the old
/// rank in the configuration.
///
/// DataError if the folder's tensors do not fit. ValueError, and nothing is
/// changed, if it adapts a layer that the adapter does not, if the two differ
/// in `use_dora`, `lora_bias`, `lora_dropout` or `velora_config`, or if one has
/// modules, biases or rows of tables of its own or changed the base, or is
/// merged.
TORCHLORA_API void hotswap_adapter(
    PeftModel& model,
    const std::filesystem::path& directory,
    const std::string& adapter_name = "default");

} // namespace torchlora
