#pragma once

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// Judges a configuration: `LoraConfig::validate`, and what the tables of
/// initializers and variants know. What a layer cannot have is left to the
/// layer (`LoraLayer::check_config`) and the variant
/// (`LoraVariantType::check`). ValueError says what is wrong; warns about the
/// configuration of an initializer that is not the one chosen.
void check_config(const LoraConfig& config);

} // namespace torchlora
