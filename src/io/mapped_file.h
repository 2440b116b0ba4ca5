#pragma once

#include <cstddef>
#include <filesystem>

#include "io/input_file.h"

namespace torchlora::io {

// A checkpoint is mapped and not read: a page comes into memory when a tensor
// of it is used, and processes that map the same file share the page. The
// mapping is private and writable (copy on write), so a tensor that trains in
// place costs memory only for the pages that it writes.
//
// If another process makes the file shorter, the kernel answers a read of a
// lost page by SIGBUS, in whatever thread and kernel it happens. `check_size`
// finds this before a read. For the rest `bus_error.h` names the file.

/// A file mapped into memory, copy on write. DataError if that fails.
class TORCHLORA_API MappedFile {
 public:
  /// `where` begins every message.
  MappedFile(const std::filesystem::path& path, const std::string& where);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  char* data() const {
    return data_;
  }
  size_t size() const {
    return size_;
  }
  /// DataError if the file has become shorter since it was mapped.
  void check_size() const;

 private:
  InputFile file_;
  std::string where_;
  /// What the process says if a page is lost.
  std::string last_words_;
  char* data_ = nullptr;
  size_t size_ = 0;
};

} // namespace torchlora::io
