#include "cli/output_dir.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <c10/util/Exception.h>

#include <torchlora/io/atomic_file.h>

namespace torchlora::cli {
namespace fs = std::filesystem;

namespace {

/// The regular files that a run writes to the top of its output folder.
constexpr const char* kWritten[] = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "log.jsonl",
    "trainer_state.json",
    "training_args.json"};

fs::path real_path(const fs::path& path) {
  std::error_code ignored;
  const fs::path absolute = fs::absolute(path, ignored);
  const fs::path found = fs::weakly_canonical(absolute, ignored);
  const fs::path result = found.empty() ? absolute : found;
  return result.has_filename() ? result : result.parent_path();
}

/// Returns the path of `path` below `folder`, or an empty path if it is not
/// there.
fs::path below(const fs::path& path, const fs::path& folder) {
  const fs::path relative = real_path(path).lexically_relative(folder);
  return relative.empty() || *relative.begin() == ".." ? fs::path() : relative;
}

/// Returns whether a run writes `input` when `output_dir` is its folder.
bool is_written(const fs::path& input, const fs::path& output_dir) {
  std::error_code ignored;
  const bool is_same =
      std::any_of(std::begin(kWritten), std::end(kWritten), [&](auto* name) {
        return fs::equivalent(input, output_dir / name, ignored);
      });
  const fs::path relative = below(input, output_dir);
  const std::string first = relative.empty() ? "" : relative.begin()->string();
  return is_same || first.starts_with("checkpoint-") ||
      first.starts_with("grads_step");
}

} // namespace

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
  created_ = fs::create_directories(path_, error);
  TORCH_CHECK(
      !error,
      flag,
      ": cannot make the folder ",
      path_.string(),
      ": ",
      error.message());
  try {
    lock_ = open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    TORCH_CHECK_VALUE(
        lock_ < 0 || flock(lock_, LOCK_EX | LOCK_NB) == 0 ||
            errno != EWOULDBLOCK,
        flag,
        ": another run writes into ",
        path_.string(),
        "; give another folder, or wait for its end");
    TORCH_CHECK_VALUE(
        overwrite || fs::is_empty(path_, error),
        flag,
        ": ",
        path_.string(),
        " is not empty; give another folder, or --overwrite_output_dir to "
        "write into it all the same");
    for (const char* name : kWritten) {
      const fs::file_status found = fs::status(path_ / name, error);
      TORCH_CHECK_VALUE(
          !fs::exists(found) || fs::is_regular_file(found),
          flag,
          ": ",
          (path_ / name).string(),
          " must be a file, as the run writes it, and is something else; "
          "remove it or give another folder");
    }
    const fs::path probe = path_ / ".torchlora_write_test";
    io::write_file_atomic(probe, "can this folder be written to?\n");
    fs::remove(probe, error);
  } catch (...) {
    remove_if_empty();
    throw;
  }
}

OutputDir::~OutputDir() {
  remove_if_empty();
}

void OutputDir::remove_if_empty() const {
  if (created_) {
    std::error_code ignored;
    // Removes empty folders only.
    fs::remove(path_, ignored);
  }
  if (lock_ >= 0) {
    close(lock_);
  }
}

void check_inputs_survive(
    const InputPath& model,
    const std::vector<InputPath>& files,
    const fs::path& output_dir,
    const fs::path& merged_output_dir) {
  const fs::path output = real_path(output_dir);
  const fs::path merged =
      merged_output_dir.empty() ? fs::path() : real_path(merged_output_dir);
  const fs::path checkpoint = real_path(model.path);
  TORCH_CHECK_VALUE(
      output != checkpoint,
      "--output_dir must be a folder of its own, found that of ",
      model.flag,
      ": ",
      output.string());
  TORCH_CHECK_VALUE(
      merged.empty() || (merged != output && merged != checkpoint),
      "--merged_output_dir must be a folder of its own, found that of "
      "--output_dir or ",
      model.flag,
      ": ",
      merged.string());
  std::vector<InputPath> inputs = files;
  inputs.push_back(model);
  for (const InputPath& input : inputs) {
    if (input.path.empty()) {
      continue;
    }
    TORCH_CHECK_VALUE(
        !is_written(input.path, output),
        "--output_dir: the run would overwrite ",
        input.flag,
        " ",
        input.path.string(),
        "; give another folder");
    TORCH_CHECK_VALUE(
        merged.empty() || below(input.path, merged).empty(),
        "--merged_output_dir: the run would overwrite ",
        input.flag,
        " ",
        input.path.string(),
        "; give another folder");
  }
}

} // namespace torchlora::cli
