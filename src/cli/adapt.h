#pragma once

#include <torchlora/config/lora_config.h>
#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>

namespace torchlora::cli {

/// Returns the names of the modules of the checkpoint that are not in memory,
/// only the topmost ones, for example "model.vision_tower".
std::vector<std::string> left_aside(const nn::PretrainedModel& model);

/// Adapts `model` by `config` and shows the progress. ValueError, with the flag
/// that helps, if the configuration selects modules that are not in memory.
PeftModel adapt(gemma4::Gemma4ForCausalLM& model, const LoraConfig& config);

} // namespace torchlora::cli
