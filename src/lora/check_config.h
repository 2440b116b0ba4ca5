#pragma once

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// Judges a configuration: `LoraConfig::validate`, and what the tables of
/// initializers and variants know. What a layer cannot have is left to the
/// layer (`LoraLayer::check_config`) and the variant
/// (`LoraVariantType::check`). ValueError says what is wrong; warns about the
/// configuration of an initializer that is not the one chosen.
void check_config(const LoraConfig& config);

/// ValueError for an adapter name that cannot be part of a parameter's name or
/// the name of a folder, or that a mixed batch uses for no adapter.
void check_adapter_name(const std::string& adapter_name, const char* function);

/// Names no adapter in a mixed batch.
inline constexpr auto kBaseAdapter = "__base__";

} // namespace torchlora
