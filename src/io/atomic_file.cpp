#include <torchlora/io/atomic_file.h>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <new>
#include <system_error>
#include <vector>

#include <torchlora/error.h>

#include "io/copy_file.h"
#include "io/input_file.h"

// A write goes to a temporary file in the same folder. fsync brings its content
// to the disk, rename puts it in the place of the old file in one step, and an
// fsync of the folder makes the rename last. After a crash at any point the
// path holds the old content or the new one, never a part.

namespace torchlora::io {
namespace fs = std::filesystem;

namespace {

/// The temporary file of one write. The destructor removes it unless it was
/// renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(const fs::path& target)
      : target_(target),
        path_(target.string() + ".tmp." + std::to_string(::getpid())) {
    fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    check(fd_ >= 0, "create");
  }

  ~TemporaryFile() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
    if (!committed_) {
      ::unlink(path_.c_str());
    }
  }

  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void append(const void* data, size_t size) {
    auto p = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t written = ::write(fd_, p, std::min(size, kChunk));
      if (written < 0 && errno == EINTR) {
        continue;
      }
      check(written >= 0, "write");
      p += written;
      size -= static_cast<size_t>(written);
      start_writeback(written);
    }
  }

  void commit() {
    check(::fsync(fd_) == 0, "fsync");
    const int fd = fd_;
    fd_ = -1;
    check(::close(fd) == 0, "close");
    check(::rename(path_.c_str(), target_.c_str()) == 0, "rename");
    committed_ = true;
    const auto folder =
        target_.has_parent_path() ? target_.parent_path() : fs::path(".");
    const int folder_fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY);
    if (folder_fd >= 0) {
      ::fsync(folder_fd);
      ::close(folder_fd);
    }
  }

 private:
  /// Lets the disk write what is there while the rest is made, so that fsync
  /// has little left to wait for.
  void start_writeback([[maybe_unused]] ssize_t size) {
#ifdef __linux__
    if (size == static_cast<ssize_t>(kChunk)) {
      ::sync_file_range(fd_, position_, size, SYNC_FILE_RANGE_WRITE);
    }
#endif
    position_ += size;
  }

  void check(bool ok, const char* step) const {
    const int error = errno;
    TORCH_CHECK(
        ok,
        "[write_file_atomic] cannot write ",
        target_.string(),
        " (",
        step,
        "): ",
        std::system_category().message(error));
  }

  static constexpr size_t kChunk = 8 << 20;

  fs::path target_, path_;
  int fd_ = -1;
  off_t position_ = 0;
  bool committed_ = false;
};

} // namespace

void write_file_atomic(const fs::path& path, std::string_view content) {
  write_file_atomic(path, [&](const auto& append) {
    append(content.data(), content.size());
  });
}

void write_file_atomic(
    const fs::path& path,
    const std::function<void(const std::function<void(const void*, size_t)>&)>&
        write) {
  TemporaryFile file(path);
  write([&](const void* data, size_t size) { file.append(data, size); });
  file.commit();
}

std::string read_file(const fs::path& path, uint64_t max_bytes) {
  const InputFile file(path, "[read_file] ");
  // A sparse file has any size, and the memory for it would be written to.
  const auto memory = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
      static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  max_bytes = std::min(max_bytes, memory);
  const auto check_size = [&](uint64_t size) {
    TORCHLORA_CHECK_DATA(
        size <= max_bytes,
        "[read_file] ",
        path.string(),
        " has ",
        size,
        " bytes; a file of its kind has at most ",
        max_bytes);
  };
  const auto expected = file.size();
  check_size(expected);
  std::string content;
  try {
    // One byte more, so that the last read finds the end.
    content.resize(expected + 1);
    size_t size = 0;
    while (const auto count =
               file.read(content.data() + size, content.size() - size)) {
      size += count;
      check_size(size);
      if (size == content.size()) {
        content.resize(2 * size);
      }
    }
    content.resize(size);
  } catch (const std::bad_alloc&) {
    TORCHLORA_CHECK_DATA(
        false,
        "[read_file] ",
        path.string(),
        " has ",
        expected,
        " bytes, which do not fit into memory");
  }
  return content;
}

void copy_file_atomic(const fs::path& from, const fs::path& to) {
  const InputFile file(from, "[save_pretrained] ");
  write_file_atomic(to, [&](const auto& append) {
    std::vector<char> buffer(1 << 20);
    while (const auto count = file.read(buffer.data(), buffer.size())) {
      append(buffer.data(), count);
    }
  });
}

} // namespace torchlora::io
