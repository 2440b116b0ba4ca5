#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>

namespace torchlora::io {

/// One safetensors file, mapped into memory: opening reads the header only.
/// Every error is a DataError that names the file and the tensor.
class TORCHLORA_API SafetensorsFile {
 public:
  /// Maps the file and reads its header.
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// As it was given.
  const std::filesystem::path& path() const;
  /// In the order of the data in the file.
  const std::vector<std::string>& keys() const;
  /// Whether there is a tensor of this name.
  bool contains(const std::string& key) const;
  /// The file's `__metadata__`; empty without one.
  const std::map<std::string, std::string>& metadata() const;
  /// @{
  /// Of a tensor.
  at::ScalarType dtype(const std::string& key) const;
  std::vector<int64_t> sizes(const std::string& key) const;
  /// @}

  /// The tensor on the CPU, sharing the mapping's memory (which lives as long
  /// as the tensor). The mapping is private: writing to the tensor does not
  /// change the file. A tensor whose data is not aligned to its element size
  /// is copied.
  at::Tensor tensor(const std::string& key) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes `tensors` (any device, any strides) in the given order. Atomic: the
/// file appears whole (temporary file, fsync, rename) or not at all.
TORCHLORA_API void save_safetensors(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, at::Tensor>>& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

} // namespace torchlora::io
