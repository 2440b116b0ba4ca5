#pragma once

#include <torchlora/config/lora_config.h>

#include "model/sites.h"

namespace torchlora {

/// `{'a', 'b'}` or `'regex'`, as PEFT's messages have it.
std::string repr(const ModuleNames& names);

/// Returns `target_modules` of a configuration for this model: all-linear as
/// names, none as the default of the model's type. ValueError if there is no
/// default.
ModuleNames resolve_targets(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config);

/// Returns the parameters that a configuration targets, with the `peft_name`
/// that the file will give them. ValueError for a parameter that cannot be
/// adapted; warns by name of entries that matched nothing.
std::vector<TargetSite> targeted_parameters(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config);

/// ValueError if the configuration means a module that has several names by
/// another than its first, so that it would not be followed. `adapted` are its
/// targets.
void check_second_names(
    Module& model,
    const LoraConfig& config,
    const std::vector<TargetSite>& adapted);

/// Warns of the entries of a configuration's field, if there are any.
void warn_unused(
    const char* field,
    const std::vector<std::string>& entries,
    const char* what);

/// Throws the ValueError that says why no module is a target.
[[noreturn]] void refuse_no_match(
    Module& model,
    const std::vector<TargetSite>& sites,
    const LoraConfig& config,
    bool any_excluded,
    bool any_unmatched);

} // namespace torchlora
