#pragma once

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/config/lora_config.h>

namespace torchlora::io {

/// Makes what is about to be saved, an adapter whose initialiser took its
/// update out of the base weight, a plain LoRA of the original base: with
/// A' = [A; A₀] and B' = [B, -B₀] the update B' A' is B A - B₀ A₀.
///
/// `tensors` by the names of the file; those of the first adapter are read
/// from the folder `initial`. DataError if they do not fit.
void convert_to_plain_lora(
    std::vector<std::pair<std::string, at::Tensor>>& tensors,
    LoraConfig& config,
    const std::filesystem::path& initial);

} // namespace torchlora::io
