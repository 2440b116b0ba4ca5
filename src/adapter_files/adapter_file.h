#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace torchlora::io {

/// The tensors of an adapter's folder, by PEFT's keys.
struct AdapterFile {
  std::filesystem::path path;
  std::map<std::string, at::Tensor> tensors;
};

/// Reads adapter_model.safetensors (mapped, not copied) or, where there is
/// none, adapter_model.bin as PEFT writes it with `safe_serialization=False`;
/// nothing but tensors can come out of that. DataError names the file.
AdapterFile read_adapter_file(const std::filesystem::path& directory);

} // namespace torchlora::io
