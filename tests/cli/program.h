#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <sys/types.h>

namespace torchlora::cli {

struct ProgramResult {
  /// -1 if a signal ended the program.
  int exit_code = -1;
  std::string out;
  std::string err;
  /// The most memory that the program had, in MiB.
  int64_t peak_mib = 0;
};

struct ProgramOptions {
  /// Largest file that may be written; 0: no limit.
  size_t file_size_limit = 0;
  /// Called for every line of stdout.
  std::function<void(const std::string& line, pid_t program)> on_line = {};
  /// stderr is a terminal of that many columns; 0: a pipe.
  int terminal_columns = 0;
  /// What becomes of stdout: read, a pipe whose reader is gone, or closed.
  enum class Output { kRead, kBrokenPipe, kClosed } output = Output::kRead;
  /// Whether SIGHUP is ignored, as nohup does it.
  bool nohup = false;
};

/// Runs the `torchlora` program that this build made.
ProgramResult run_program(
    const std::vector<std::string>& args,
    const ProgramOptions& options = {});

/// A folder of its own for each test, with preference data and the arguments
/// of a short run on the tiny E2B checkpoint.
class ProgramTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  /// `count` lines of a data set.
  static std::vector<std::string> rows(size_t count);
  static void write_lines(
      const std::filesystem::path& path,
      const std::vector<std::string>& lines);

  /// `dpo` with the flags that it must have, and then `more`.
  std::vector<std::string> args_with(
      const std::vector<std::string>& more) const;
  /// The same, with a small batch and one thread.
  std::vector<std::string> dpo_args(
      const std::vector<std::string>& more = {}) const;
  /// The run ends with this code and one error line that contains each of
  /// `words`, and leaves no output folder behind.
  void expect_refused(
      int exit_code,
      const std::vector<std::string>& args,
      const std::vector<std::string>& words) const;

  std::filesystem::path folder, data, output, model;
};

} // namespace torchlora::cli
