#pragma once

#include <filesystem>
#include <map>

#include <torchlora/types.h>

namespace torchlora {

/// The tensors in an adapter's folder, by PEFT's keys.
struct AdapterFile {
  std::filesystem::path path;
  std::map<std::string, Tensor> tensors;
  /// The metadata of a safetensors file; empty for a .bin file.
  std::map<std::string, std::string> metadata = {};
};

/// Maps adapter_model.safetensors. If there is none, reads adapter_model.bin,
/// which PEFT writes with `safe_serialization=False`; only tensors are accepted
/// in it. DataError names the file; also for a factor with NaN or infinity.
AdapterFile read_adapter_file(const std::filesystem::path& directory);

} // namespace torchlora
