#include "cli/output_dir.h"

#include <system_error>

#include <c10/util/Exception.h>

#include <torchlora/io/atomic_file.h>

namespace torchlora::cli {
namespace fs = std::filesystem;

OutputDir::OutputDir(const fs::path& path, const char* flag, bool overwrite)
    : path_(path) {
  std::error_code error;
  const fs::file_status status = fs::status(path_, error);
  TORCH_CHECK_VALUE(
      !fs::exists(status) || fs::is_directory(status),
      flag,
      " must be a folder; ",
      path_.string(),
      " is something else");
  TORCH_CHECK_VALUE(
      overwrite || !fs::exists(status) || fs::is_empty(path_, error),
      flag,
      ": ",
      path_.string(),
      " is not empty; give another folder, or --overwrite_output_dir to write "
      "into it all the same");
  created_ = fs::create_directories(path_, error);
  TORCH_CHECK(
      !error,
      flag,
      ": cannot make the folder ",
      path_.string(),
      ": ",
      error.message());
  const fs::path probe = path_ / ".torchlora_write_test";
  io::write_file_atomic(probe, "can this folder be written to?\n");
  fs::remove(probe, error);
}

OutputDir::~OutputDir() {
  if (created_) {
    std::error_code ignored;
    // Removes empty folders only.
    fs::remove(path_, ignored);
  }
}

} // namespace torchlora::cli
