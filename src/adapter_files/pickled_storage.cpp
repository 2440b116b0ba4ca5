#include "adapter_files/pickled_storage.h"

#include <algorithm>
#include <cstring>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <torchlora/error.h>

namespace torchlora {
namespace {

/// PyTorch numbers its files.
constexpr size_t kMaxNameLength = 100;

} // namespace

Tensor PickledStorages::find(
    std::string_view name,
    at::ScalarType dtype,
    int64_t size) {
  TORCHLORA_CHECK_DATA(
      name.size() <= kMaxNameLength, where_, "the name of a file is too long");
  if (size == 0) { // which no file need hold
    return at::empty({0}, dtype);
  }
  const auto path = folder_ + std::string(name);
  auto& storage = known_[{path, dtype}];
  if (!storage.defined()) {
    const auto file = files_.find(path);
    TORCHLORA_CHECK_DATA(
        file != files_.end(), where_, "the file ", path, " is missing");
    TORCHLORA_CHECK_DATA(
        size >= 0 &&
            static_cast<uint64_t>(size) <=
                file->second.size() / c10::elementSize(dtype),
        where_,
        "the file ",
        path,
        " should hold ",
        size,
        " elements of ",
        c10::elementSize(dtype),
        " bytes, it has ",
        file->second.size(),
        " bytes");
    storage = wrap(file->second, dtype, size);
  }
  return storage;
}

Tensor PickledStorages::wrap(
    std::string_view bytes,
    at::ScalarType dtype,
    int64_t size) const {
  const auto address = reinterpret_cast<uintptr_t>(bytes.data());
  if (address % c10::elementSize(dtype) != 0) {
    auto copy = at::empty({size}, dtype);
    std::memcpy(copy.mutable_data_ptr(), bytes.data(), copy.nbytes());
    return copy;
  }
  return at::from_blob(
      const_cast<char*>(bytes.data()), // of a mapping that may be written to
      {size},
      [owner = owner_](void* /*data*/) {},
      at::TensorOptions(dtype));
}

Tensor PickledStorages::view(
    const Tensor& storage,
    int64_t offset,
    const std::vector<int64_t>& sizes,
    const std::vector<int64_t>& strides) const {
  int64_t count = 1, last = offset;
  bool fits = sizes.size() == strides.size() && offset >= 0;
  for (size_t i = 0; fits && i < sizes.size(); ++i) {
    int64_t way = 0;
    fits = sizes[i] >= 0 && strides[i] >= 0 &&
        !__builtin_mul_overflow(count, sizes[i], &count) &&
        !__builtin_mul_overflow(
               std::max<int64_t>(sizes[i] - 1, 0), strides[i], &way) &&
        !__builtin_add_overflow(last, way, &last);
  }
  // No more elements than the storage has: a tensor that repeats its storage
  // would grow when it is copied.
  TORCHLORA_CHECK_DATA(
      fits &&
          (count == 0 || (last < storage.numel() && count <= storage.numel())),
      where_,
      "a tensor is larger than its storage");
  return count == 0 ? at::empty(sizes, storage.options())
                    : storage.as_strided(sizes, strides, offset);
}

} // namespace torchlora
