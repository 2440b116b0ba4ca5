#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>

#include <torchlora/error.h>

namespace torchlora::io {

MappedFile::MappedFile(const std::filesystem::path& path) {
  const auto check = [&](bool ok, int error) {
    TORCHLORA_CHECK_DATA(
        ok,
        "[safetensors] cannot open ",
        path.string(),
        ": ",
        std::system_category().message(error));
  };
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(fd >= 0, errno);
  struct stat status = {};
  const bool known = ::fstat(fd, &status) == 0;
  size_ = known ? static_cast<size_t>(status.st_size) : 0;
  void* data = nullptr;
  int error = S_ISREG(status.st_mode) ? 0 : EISDIR;
  if (error == 0 && size_ > 0) {
    // NOTE: MAP_NORESERVE, or the kernel refuses a writable private mapping
    // that is larger than the machine's memory.
    data = ::mmap(
        nullptr,
        size_,
        PROT_READ | PROT_WRITE,
        MAP_PRIVATE | MAP_NORESERVE,
        fd,
        0);
    error = data == MAP_FAILED ? errno : 0;
  }
  ::close(fd);
  check(error == 0, error);
  data_ = static_cast<char*>(data);
}

MappedFile::~MappedFile() {
  if (data_) {
    ::munmap(data_, size_);
  }
}

} // namespace torchlora::io
