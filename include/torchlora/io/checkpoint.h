#pragma once

#include <map>

#include <torchlora/io/safetensors.h>

namespace torchlora::io {

/// The weights in a Hugging Face folder: `model.safetensors`, or
/// `model.safetensors.index.json` with its shards.
class TORCHLORA_API Checkpoint {
 public:
  /// Opens the safetensors files in `directory` and reads their headers.
  /// DataError if the folder has no checkpoint, a shard is missing, or the
  /// index and the shards disagree.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// Returns the folder as the constructor received it.
  const std::filesystem::path& directory() const {
    return directory_;
  }
  /// Returns the names of all tensors in the checkpoint.
  const std::vector<std::string>& keys() const {
    return keys_;
  }
  /// Returns whether the checkpoint has a tensor of the name `key`.
  bool contains(const std::string& key) const;
  /// Returns the safetensors file that holds the tensor `key`. DataError if the
  /// checkpoint has no such tensor.
  const SafetensorsFile& file_of(const std::string& key) const;
  /// Returns the safetensors files of the checkpoint: one, or its shards.
  const std::vector<std::shared_ptr<SafetensorsFile>>& files() const {
    return files_;
  }
  /// Returns the tensor `key` on the CPU, as `SafetensorsFile::tensor` does.
  /// DataError if the checkpoint has no such tensor.
  Tensor tensor(const std::string& key) const;

 private:
  std::filesystem::path directory_;
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::vector<std::string> keys_;
  std::map<std::string, size_t> file_index_;
};

/// Writes a Hugging Face folder with the parameters and buffers of `model` to
/// `destination`. Takes the dtypes, the shards and the tensors that `model` did
/// not load from the folder `source`. Copies the other files of that folder,
/// but no folders and no weights in other formats (such as `.bin` or `.gguf`),
/// which would contradict the new ones. Merge and unload adapters before the
/// call. Writes each file atomically and config.json last, so an interrupted
/// save does not look like a checkpoint.
///
/// ValueError if a tensor of `model` has no counterpart of the same sizes in
/// `source`, or if the destination is the source; DataError if `source` is not
/// a checkpoint; c10::Error with the system's
/// reason if a file cannot be written.
TORCHLORA_API void save_pretrained(
    const Module& model,
    const std::filesystem::path& source,
    const std::filesystem::path& destination);

} // namespace torchlora::io
