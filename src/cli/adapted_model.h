#pragma once

#include <functional>
#include <string>
#include <vector>

#include <torchlora/config/lora_config.h>
#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>

#include "cli/options.h"

namespace torchlora::cli {

/// Names of the modules of the checkpoint that are not in memory, without
/// those below another one: "model.vision_tower".
std::vector<std::string> left_aside(const nn::PretrainedModel& model);

/// Adapts `model` by `config`. `c10::ValueError` if the configuration asks
/// for modules that were left aside, with the flag that helps.
PeftModel adapt(gemma4::Gemma4ForCausalLM& model, const LoraConfig& config);

} // namespace torchlora::cli
