#pragma once

#include <cstddef>
#include <filesystem>

namespace torchlora::io {

// A checkpoint is mapped and not read: a page comes into memory when a tensor
// of it is used, and processes that map the same file share the page. The
// mapping is private and writable (copy on write), so a tensor that trains in
// place costs memory only for the pages that it writes.

/// A file mapped into memory, copy on write. DataError if that fails.
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
