#pragma once

#include <filesystem>
#include <string>

#include <torchlora/config/lora_config.h>
#include <torchlora/export.h>

namespace torchlora::io {

/// Reads adapter_config.json of a folder that PEFT (0.10 on) or torchlora
/// wrote. Keys that nobody knows are ignored with a warning. DataError names
/// the key that is missing, of the wrong type, or that asks for a feature of
/// PEFT that is not supported.
TORCHLORA_API LoraConfig
load_adapter_config(const std::filesystem::path& directory);

/// adapter_config.json as PEFT 0.21.2 writes it: all its keys, sorted.
TORCHLORA_API std::string adapter_config_json(const LoraConfig& config);

} // namespace torchlora::io
