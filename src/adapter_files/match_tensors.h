#pragma once

#include <string>
#include <vector>

#include "adapter_files/adapter_file.h"
#include "model/inject.h"

namespace torchlora::io {

/// What PEFT's files put before the names of modules.
constexpr auto kFilePrefix = "base_model.model.";

std::string file_key(const std::string& module, const std::string& tensor);

/// The tensors of an adapter in a layer, as the files call them.
std::vector<AdapterTensorSpec>
specs_of(const TargetSite& site, int64_t r, const LoraConfig& config);

/// The tensors of a file for a plan's layers, in the order of
/// `LoraAdapter::tensors`, layer by layer, then its rows of tables; those that
/// the adapter owns are put into the plan, but for tables that are the base
/// model's (by `versions`, what other adapters own). DataError lists those that
/// are missing, unexpected or of other sizes; unless `strict` a warning does,
/// and they are undefined.
std::vector<at::Tensor> match_tensors(
    const AdapterFile& file,
    const SavedModules& versions,
    InjectionPlan& plan,
    bool strict = true);

} // namespace torchlora::io
