#pragma once

#include <filesystem>
#include <string>

#include <torchlora/model.h>

namespace torchlora {

/// Gives a loaded adapter the weights, ranks, scalings and configuration of
/// the one in a folder; it stays active, frozen and so on as it is. Tensors of
/// the same sizes are overwritten in place, so that nothing that holds them
/// notices; a layer that the folder does not adapt gets no update. PEFT's
/// `hotswap_adapter`, which wants equal `use_rslora` and `alpha_pattern` and
/// leaves the old rank behind.
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
