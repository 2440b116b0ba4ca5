#include <torchlora/io/atomic_file.h>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <system_error>

#include <torchlora/error.h>

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
      const ssize_t written = ::write(fd_, p, size);
      if (written < 0 && errno == EINTR) {
        continue;
      }
      check(written >= 0, "write");
      p += written;
      size -= static_cast<size_t>(written);
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

  fs::path target_, path_;
  int fd_ = -1;
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

std::string read_file(const fs::path& path) {
  std::error_code error;
  TORCHLORA_CHECK_DATA(
      fs::exists(path, error), "[read_file] there is no file ", path.string());
  TORCHLORA_CHECK_DATA(
      !fs::is_directory(path, error),
      "[read_file] expected a file, found a folder: ",
      path.string());
  errno = 0;
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  content << stream.rdbuf();
  TORCHLORA_CHECK_DATA(
      stream.is_open() && !stream.bad(),
      "[read_file] cannot read ",
      path.string(),
      ": ",
      std::system_category().message(errno));
  return std::move(content).str();
}

} // namespace torchlora::io
