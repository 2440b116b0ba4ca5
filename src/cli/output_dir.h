#pragma once

#include <filesystem>

namespace torchlora::cli {

/// A folder for results, checked before the work starts: ValueError if it is
/// not empty and `overwrite` is false, Error if it cannot be written to. The
/// destructor removes the folder if the constructor made it and it is still
/// empty. `flag` is the name in error messages.
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
