#include "io/input_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include <torchlora/error.h>

namespace torchlora::io {
namespace fs = std::filesystem;

namespace {

const char* kind_of(mode_t mode) {
  return S_ISDIR(mode) ? "a folder (Is a directory)"
      : S_ISFIFO(mode) ? "a FIFO (named pipe)"
      : S_ISCHR(mode)  ? "a character device"
      : S_ISBLK(mode)  ? "a block device"
      : S_ISSOCK(mode) ? "a socket"
                       : "something else";
}

/// Says why `path` cannot be opened.
std::string reason(const fs::path& path, int error) {
  std::error_code ignored;
  if (error == ELOOP) {
    return "its symbolic links form a loop";
  }
  if (error == ENOENT && fs::is_symlink(path, ignored)) {
    return "it is a symbolic link to " +
        fs::read_symlink(path, ignored).string() +
        ", which does not exist; is a download incomplete?";
  }
  return std::system_category().message(error);
}

} // namespace

InputFile::InputFile(const fs::path& path, const std::string& where)
    : path_(path), where_(where) {
  // NOTE: without O_NONBLOCK, opening a FIFO waits for a writer.
  do {
    fd_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (fd_ < 0 && errno == EINTR);
  TORCHLORA_CHECK_DATA(
      fd_ >= 0,
      where,
      "cannot open ",
      path.string(),
      ": ",
      reason(path, errno));
  struct stat status = {};
  const bool is_known = ::fstat(fd_, &status) == 0;
  if (!is_known || !S_ISREG(status.st_mode)) {
    ::close(fd_);
    TORCHLORA_CHECK_DATA(
        false,
        where,
        "cannot read ",
        path.string(),
        ": a regular file is required, found ",
        is_known ? kind_of(status.st_mode) : "something unreadable");
  }
}

InputFile::~InputFile() {
  ::close(fd_);
}

uint64_t InputFile::size() const {
  struct stat status = {};
  return ::fstat(fd_, &status) == 0 ? static_cast<uint64_t>(status.st_size) : 0;
}

size_t InputFile::read(void* data, size_t size) const {
  ssize_t count = 0;
  do {
    count = ::read(fd_, data, size);
  } while (count < 0 && errno == EINTR);
  TORCHLORA_CHECK_DATA(
      count >= 0,
      where_,
      "cannot read ",
      path_.string(),
      ": ",
      std::system_category().message(errno));
  return static_cast<size_t>(count);
}

bool is_present(const fs::path& path) {
  std::error_code error;
  return fs::symlink_status(path, error).type() != fs::file_type::not_found;
}

} // namespace torchlora::io
