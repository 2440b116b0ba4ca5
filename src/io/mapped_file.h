#pragma once

#include <cstddef>
#include <filesystem>

namespace torchlora::io {

/// A file mapped into memory, copy on write. DataError if it cannot be.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  char* data() const {
    return data_;
  }
  size_t size() const {
    return size_;
  }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

} // namespace torchlora::io
