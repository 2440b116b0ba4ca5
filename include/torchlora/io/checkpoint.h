#pragma once

#include <unordered_map>

#include <torch/nn/module.h>

#include <torchlora/io/safetensors.h>

namespace torchlora::io {

/// The weights of a Hugging Face folder: `model.safetensors`, or
/// `model.safetensors.index.json` with its shards.
class TORCHLORA_API Checkpoint {
 public:
  /// Opens the files and reads their headers. DataError if there is no
  /// checkpoint, a shard is missing or the index and the shards disagree.
  explicit Checkpoint(const std::filesystem::path& directory);

  /// The folder, as it was given.
  const std::filesystem::path& directory() const {
    return directory_;
  }
  /// Names of all tensors.
  const std::vector<std::string>& keys() const {
    return keys_;
  }
  /// Returns whether the checkpoint has a tensor of this name.
  bool contains(const std::string& key) const;
  /// Returns the shard with this tensor. DataError if there is none.
  const SafetensorsFile& file_of(const std::string& key) const;
  /// The shards.
  const std::vector<std::shared_ptr<SafetensorsFile>>& files() const {
    return files_;
  }
  /// Returns the tensor; see `SafetensorsFile::tensor`.
  Tensor tensor(const std::string& key) const;

 private:
  std::filesystem::path directory_;
  std::vector<std::shared_ptr<SafetensorsFile>> files_;
  std::vector<std::string> keys_;
  std::unordered_map<std::string, size_t> file_index_;
};

/// Writes a Hugging Face folder with the parameters and buffers of `model`. The
/// rest comes from `source`: its dtypes, its shards, the tensors that `model`
/// did not load, and its other files (not folders). `model` must not be
/// adapted; merge and unload first. Each file is written atomically and
/// config.json last, so an interrupted save does not look like a checkpoint.
///
/// ValueError if a tensor of `model` has no counterpart of the same sizes in
/// `source`, or if the destination is the source; `c10::Error` with the
/// system's reason if a file cannot be written.
TORCHLORA_API void save_pretrained(
    const torch::nn::Module& model,
    const std::filesystem::path& source,
    const std::filesystem::path& destination);

} // namespace torchlora::io
