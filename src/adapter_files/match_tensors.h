#pragma once

#include "adapter_files/adapter_file.h"
#include "model/inject.h"

namespace torchlora {

/// The prefix of module names in PEFT's files.
constexpr auto kFilePrefix = "base_model.model.";

/// Returns the tensors of a file for a plan: per layer in the order of
/// `LoraAdapter::tensors`, then the trained rows of tables. Values of saved
/// modules go into the plan, except tables that equal the base model's
/// (`versions` knows the base behind what other adapters saved). DataError
/// lists tensors that are missing, unexpected or of other sizes. Unless
/// `strict`, a warning does, and those tensors are undefined.
std::vector<Tensor> match_tensors(
    const AdapterFile& file,
    const SavedModules& versions,
    InjectionPlan& plan,
    bool strict = true);

} // namespace torchlora
