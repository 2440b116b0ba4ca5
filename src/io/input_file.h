#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <torchlora/export.h>

namespace torchlora::io {

/// A regular file that is open for reading. Every file that the library reads
/// is opened here: a FIFO or a device in place of a file would block the
/// program or never end.
class TORCHLORA_API InputFile {
 public:
  /// Opens `path`. DataError, with `where` at its beginning, says what was
  /// found instead of a regular file.
  InputFile(const std::filesystem::path& path, const std::string& where);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }
  int descriptor() const {
    return fd_;
  }
  /// Returns the present size in bytes.
  uint64_t size() const;
  /// Reads up to `size` bytes from the present position. Returns their number;
  /// 0 at the end of the file.
  size_t read(void* data, size_t size) const;

 private:
  std::filesystem::path path_;
  std::string where_;
  int fd_;
};

/// Returns whether a folder has an entry `path`, whatever it is. A link to
/// nothing and a loop of links count, unlike in `std::filesystem::exists`, so
/// that opening them says what is wrong.
TORCHLORA_API bool is_present(const std::filesystem::path& path);

} // namespace torchlora::io
