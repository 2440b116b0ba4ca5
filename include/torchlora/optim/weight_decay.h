#pragma once

#include <string_view>

#include <torchlora/export.h>

namespace torchlora {

/// Whether transformers applies weight decay to the parameter of this name:
/// not to biases and norms. Every LoRA factor is decayed.
TORCHLORA_API bool has_weight_decay(std::string_view parameter_name);

} // namespace torchlora
