#pragma once

#include <filesystem>

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// Reads the adapter_config.json in a folder that PEFT (0.10 or later) or
/// torchlora wrote, and returns the configuration. Warns about unknown keys and
/// stores them in `unknown_keys`. DataError if a key is missing, has a value
/// that PEFT does not take, or asks for a feature of PEFT that torchlora lacks;
/// the message names the file and the key.
///
/// Saved configurations have `inference_mode` set. To train a new adapter of
/// this configuration, call `inference_mode(false)` first: `get_peft_model`
/// would freeze it.
TORCHLORA_API LoraConfig
load_adapter_config(const std::filesystem::path& directory);

/// Returns the text of adapter_config.json for `config` as PEFT 0.21.2 would
/// write it, with all keys, sorted.
TORCHLORA_API std::string adapter_config_json(const LoraConfig& config);

} // namespace torchlora
