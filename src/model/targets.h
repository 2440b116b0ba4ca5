#pragma once

#include <string>
#include <vector>

#include "model/state.h"

namespace torchlora {

/// `{'a', 'b'}` or `'regex'`, as PEFT's messages have it.
std::string repr(const ModuleNames& names);

/// `target_modules` of a configuration for this model: all-linear as names,
/// none as the default of the model's type. ValueError if there is no default.
ModuleNames resolve_targets(
    torch::nn::Module& model,
    const std::vector<ModuleSite>& sites,
    const LoraConfig& config);

/// ValueError that says why no module is a target.
[[noreturn]] void refuse_no_match(
    const torch::nn::Module& model,
    const LoraConfig& config,
    bool any_excluded,
    bool any_unmatched);

} // namespace torchlora
