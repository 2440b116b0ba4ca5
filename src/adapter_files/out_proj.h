#pragma once

#include <map>

#include "adapter_files/adapter_file.h"
#include "model/inject.h"

namespace torchlora {

// PEFT's MultiheadAttention adds the update of `out_proj` twice. So a file
// means another function there: one that PEFT trained needs B of `out_proj`
// times 2 to give the same here, and one from here needs it times ½ to give the
// same in PEFT. A file with that half is marked in its metadata.

/// Halves B of each `out_proj` of the adapter and marks the file, if
/// `for_peft`; else warns with the names of the modules. ValueError for a
/// variant, which PEFT refuses in MultiheadAttention.
void write_out_proj(
    Module& model,
    const std::string& adapter_name,
    bool for_peft,
    NamedTensors& tensors,
    std::map<std::string, std::string>& metadata);

/// Doubles B of each `out_proj` that the plan adapts if the file is marked or
/// `of_peft`; else warns with the names of `function` and of the modules.
void read_out_proj(
    AdapterFile& file,
    const InjectionPlan& plan,
    bool of_peft,
    const char* function);

} // namespace torchlora
