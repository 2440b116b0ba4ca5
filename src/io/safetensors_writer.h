#pragma once

#include <filesystem>
#include <functional>
#include <map>

#include <torchlora/types.h>

namespace torchlora::io {

/// A tensor to write, produced when its turn comes.
struct LazyTensor {
  std::string key;
  at::ScalarType dtype;
  std::vector<int64_t> sizes;
  /// Returns a tensor of `sizes` and any dtype; the writer converts it.
  std::function<Tensor()> get;
};

/// Same as the public `save_safetensors`, but holds one converted tensor at a
/// time.
void save_safetensors(
    const std::filesystem::path& path,
    const std::vector<LazyTensor>& tensors,
    const std::map<std::string, std::string>& metadata);

} // namespace torchlora::io
