#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torchlora/tensor.h>

#include <torchlora/export.h>

namespace torchlora::io {

/// One safetensors file, mapped into memory: opening reads the header only.
/// Every error is a DataError that names the file and the tensor.
class TORCHLORA_API SafetensorsFile {
 public:
  /// Maps the file and reads its header.
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// The path, as it was given.
  const std::filesystem::path& path() const;
  /// Names of all tensors, in the order of the data in the file.
  const std::vector<std::string>& keys() const;
  /// Returns whether the file has a tensor of this name.
  bool contains(const std::string& key) const;
  /// The file's `__metadata__`; empty without one.
  const std::map<std::string, std::string>& metadata() const;
  /// @{
  /// Returns what the header says of a tensor.
  at::ScalarType dtype(const std::string& key) const;
  std::vector<int64_t> sizes(const std::string& key) const;
  /// @}

  /// Returns the tensor on the CPU. It shares the mapping's memory, which lives
  /// as long as the tensor, and is copied only if its data is not aligned to
  /// its element size. The mapping is private: a write to the tensor does not
  /// change the file.
  Tensor tensor(const std::string& key) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes `tensors` (any device, any strides) in the given order. The file
/// appears whole or not at all (`io/atomic_file.h`).
TORCHLORA_API void save_safetensors(
    const std::filesystem::path& path,
    const std::vector<std::pair<std::string, Tensor>>& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

} // namespace torchlora::io
