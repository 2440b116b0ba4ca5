#pragma once

#include <torchlora/config/lora_config.h>

#include "model/state.h"

namespace torchlora::io {

/// The configuration of `adapter` as PEFT 0.21.2 must read it: over all
/// modules of the checkpoint, those that this model left out included, its
/// `target_modules`, patterns and `trainable_token_indices` resolve to exactly
/// the adapted layers. The user's own spelling where that holds, else full
/// names.
LoraConfig saved_config(
    torch::nn::Module& model,
    const PeftState::Adapter& adapter);

} // namespace torchlora::io
