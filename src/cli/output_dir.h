#pragma once

#include <filesystem>

namespace torchlora::cli {

/// A folder for results. Checked before the work starts: `c10::ValueError` if
/// it holds something and `overwrite` is not set, `c10::Error` if nothing can
/// be written there. A folder that was made here and is still empty when the
/// program leaves is removed again.
class OutputDir {
 public:
  OutputDir(
      const std::filesystem::path& path,
      const char* flag,
      bool overwrite);
  ~OutputDir();
  OutputDir(const OutputDir&) = delete;
  OutputDir& operator=(const OutputDir&) = delete;

  const std::filesystem::path& path() const {
    return path_;
  }

 private:
  std::filesystem::path path_;
  bool created_ = false;
};

} // namespace torchlora::cli
