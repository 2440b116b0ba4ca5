#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include <torchlora/config/lora_config.h>

namespace torchlora::io {

/// The configurations of initialisers and of VeLoRA, which are objects in an
/// adapter_config.json. DataError for values of a wrong type; warns of keys
/// that nobody knows.
void read_nested_configs(
    const nlohmann::json& values,
    const std::string& file,
    LoraConfig& config);

/// What PEFT has and nothing here stands for is left out: it takes its default.
void write_nested_configs(const LoraConfig& config, nlohmann::json& values);

} // namespace torchlora::io
