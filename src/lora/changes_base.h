#pragma once

#include <torchlora/lora/layer.h>

namespace torchlora {

/// ValueError if the layer has an adapter: an initialiser that changes the base
/// weight would change that adapter's too.
void check_is_first(const LoraLayer& layer, const LoraConfig& config);

} // namespace torchlora
