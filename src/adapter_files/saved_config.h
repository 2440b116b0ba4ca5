#pragma once

#include <torchlora/config/lora_config.h>

#include "model/state.h"

namespace torchlora {

/// Returns the configuration of `adapter` for PEFT 0.21.2, which may see more
/// modules of the checkpoint than this model has. There `target_modules`, the
/// patterns and `trainable_token_indices` must resolve to exactly the adapted
/// layers. The user's own spelling is kept if it does; else full names are
/// written.
LoraConfig saved_config(Module& model, const PeftState::Adapter& adapter);

} // namespace torchlora
