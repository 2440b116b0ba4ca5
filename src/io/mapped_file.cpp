#include "io/mapped_file.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>
#include <system_error>

#include <torchlora/error.h>

#include "io/bus_error.h"
#include "text/utf8.h"

namespace torchlora::io {

MappedFile::MappedFile(
    const std::filesystem::path& path,
    const std::string& where)
    : file_(path, where), where_(where), size_(file_.size()) {
  if (size_ == 0) {
    return;
  }
  // NOTE: MAP_NORESERVE, or the kernel refuses a writable private mapping that
  // is larger than the machine's memory.
  void* data = ::mmap(
      nullptr,
      size_,
      PROT_READ | PROT_WRITE,
      MAP_PRIVATE | MAP_NORESERVE,
      file_.descriptor(),
      0);
  TORCHLORA_CHECK_DATA(
      data != MAP_FAILED,
      where,
      "cannot map ",
      path.string(),
      " into memory: ",
      std::system_category().message(errno));
  data_ = static_cast<char*>(data);
  last_words_ = detail::printable(
      where + path.string() +
      " cannot be read any more: it was truncated, or its disk failed, while "
      "it was in use. Start again with a whole file.\n");
  watch_mapping(data_, size_, last_words_.c_str());
}

MappedFile::~MappedFile() {
  if (data_) {
    forget_mapping(data_);
    ::munmap(data_, size_);
  }
}

void MappedFile::check_size() const {
  const auto now = file_.size();
  TORCHLORA_CHECK_DATA(
      now >= size_,
      where_,
      file_.path().string(),
      " was truncated while it was read: it had ",
      size_,
      " bytes when it was opened, now it has ",
      now);
}

} // namespace torchlora::io
