#pragma once

#include <filesystem>

#include <torchlora/types.h>

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// Converts an adapter that is about to be saved to a plain LoRA of the
/// original base. Its initializer took the update B₀ A₀ out of the base weight;
/// with A' = [A; A₀] and B' = [B, -B₀] the new update B' A' is B A - B₀ A₀.
///
/// `tensors` are named as in the file. A₀ and B₀ are read from the folder
/// `initial`. DataError if they do not fit.
void convert_to_plain_lora(
    NamedTensors& tensors,
    LoraConfig& config,
    const std::filesystem::path& initial);

} // namespace torchlora
