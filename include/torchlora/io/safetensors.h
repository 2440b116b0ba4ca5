#pragma once

#include <filesystem>
#include <map>
#include <memory>

#include <torchlora/types.h>

#include <torchlora/export.h>

namespace torchlora::io {

/// One safetensors file that is mapped into memory. The constructor reads its
/// header only. Every error is a DataError that names the file and,
/// if it concerns one tensor, that tensor.
class TORCHLORA_API SafetensorsFile {
 public:
  /// Maps the file `path` into memory and reads its header.
  explicit SafetensorsFile(const std::filesystem::path& path);

  /// Returns the path as the constructor received it.
  const std::filesystem::path& path() const;
  /// Returns the names of all tensors, in the order of their data in the file.
  const std::vector<std::string>& keys() const;
  /// Returns whether the file has a tensor of the name `key`.
  bool contains(const std::string& key) const;
  /// Returns the entries of `__metadata__` in the file's header; empty if the
  /// header has none.
  const std::map<std::string, std::string>& metadata() const;
  /// @{
  /// Returns the dtype or the sizes of the tensor `key`, as the header of the
  /// file states them.
  at::ScalarType dtype(const std::string& key) const;
  std::vector<int64_t> sizes(const std::string& key) const;
  /// @}

  /// Returns the tensor `key` on the CPU. It shares the memory of the mapped
  /// file, which stays mapped as long as the tensor lives; only data that is
  /// not aligned to its element size is copied. A write to the tensor does not
  /// change the file. DataError if the file has been truncated since it was
  /// opened. If another process truncates it later, a read of the tensor ends
  /// the process with a message that names the file, and exit code 3.
  Tensor tensor(const std::string& key) const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

/// Writes named `tensors` (any device, any strides) to the file `path` in the
/// given order. `metadata` becomes `__metadata__`. The file appears whole or
/// not at all (`io/atomic_file.h`).
TORCHLORA_API void save_safetensors(
    const std::filesystem::path& path,
    const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

} // namespace torchlora::io
