#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace torchlora::cli {

/// A folder for results, checked before the work starts: ValueError if it is
/// not empty and `overwrite` is false or if another run writes into it, Error
/// if it cannot be written to. The destructor removes the folder if the
/// constructor made it and it is still empty. `flag` is the name in error
/// messages.
///
/// The lock is one of the folder itself (flock), so no file stays behind, and
/// the system takes it away whenever the run ends. A file system without such
/// locks gets none.
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
  void remove_if_empty() const;

  std::filesystem::path path_;
  bool created_ = false;
  int lock_ = -1;
};

/// A file or folder that a run reads, and the flag that names it. `path` is
/// empty if the flag was not given.
struct InputPath {
  const char* flag;
  std::filesystem::path path;
};

/// Checks that a run that writes to `output_dir` and, if it is not empty,
/// `merged_output_dir` overwrites none of its inputs. ValueError names both
/// flags. `model` must not be one of the folders, and no input may be in the
/// merged folder, in a checkpoint of the output folder, or one of its files.
void check_inputs_survive(
    const InputPath& model,
    const std::vector<InputPath>& files,
    const std::filesystem::path& output_dir,
    const std::filesystem::path& merged_output_dir);

} // namespace torchlora::cli
