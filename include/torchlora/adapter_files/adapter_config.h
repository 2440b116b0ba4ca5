#pragma once

#include <filesystem>

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// Reads the adapter_config.json of a folder that PEFT (0.10 or later) or
/// torchlora wrote. Warns about unknown keys and keeps them in `unknown_keys`.
/// DataError names a key that is missing, has a value that is not allowed, or
/// asks for a feature of PEFT that is not supported.
TORCHLORA_API LoraConfig
load_adapter_config(const std::filesystem::path& directory);

/// Returns the adapter_config.json that PEFT 0.21.2 would write: all its keys,
/// sorted.
TORCHLORA_API std::string adapter_config_json(const LoraConfig& config);

} // namespace torchlora
