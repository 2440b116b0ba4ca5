#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <torchlora/types.h>

namespace torchlora {

/// The storages of a file of `torch.save`, and tensors made from them. A
/// storage is a file in the zip archive; a tensor points into it. DataError,
/// with `where` at its beginning, for sizes that do not fit.
class PickledStorages {
 public:
  using Files = std::map<std::string, std::string_view>;

  /// `files` are the files of the archive by name; `folder` is the part of
  /// their names before the storage's own. Tensors keep `owner` alive.
  PickledStorages(
      const Files& files,
      std::string folder,
      std::shared_ptr<void> owner,
      std::string where)
      : files_(files),
        folder_(std::move(folder)),
        owner_(std::move(owner)),
        where_(std::move(where)) {}

  /// Returns the storage `name` of `size` elements as a tensor of one
  /// dimension.
  Tensor find(std::string_view name, at::ScalarType dtype, int64_t size);
  /// Returns a tensor of this layout within `storage`.
  Tensor view(
      const Tensor& storage,
      int64_t offset,
      const std::vector<int64_t>& sizes,
      const std::vector<int64_t>& strides) const;

 private:
  Tensor wrap(std::string_view bytes, at::ScalarType dtype, int64_t size) const;

  const Files& files_;
  std::string folder_;
  std::shared_ptr<void> owner_;
  std::string where_;
  std::map<std::pair<std::string, at::ScalarType>, Tensor> known_;
};

} // namespace torchlora
