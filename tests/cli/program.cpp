#include "cli/program.h"

#include <array>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <stdexcept>
#include <thread>

#include <pty.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace torchlora::cli {
namespace {

std::array<int, 2> make_pipe() {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) {
    throw std::runtime_error("pipe");
  }
  return ends;
}

/// A pipe, or the two sides of a terminal: the program's is ends[1].
std::array<int, 2> make_stderr(int terminal_columns) {
  if (terminal_columns == 0) {
    return make_pipe();
  }
  std::array<int, 2> ends{};
  const winsize size{
      .ws_row = 24,
      .ws_col = static_cast<uint16_t>(terminal_columns),
      .ws_xpixel = 0,
      .ws_ypixel = 0};
  if (openpty(&ends[0], &ends[1], nullptr, nullptr, &size) != 0) {
    throw std::runtime_error("openpty");
  }
  return ends;
}

std::string read_all(
    int descriptor,
    const std::function<void(const std::string&)>& on_line) {
  FILE* stream = fdopen(descriptor, "r");
  std::string text;
  std::string line;
  for (int c = 0; (c = std::fgetc(stream)) != EOF;) {
    text += static_cast<char>(c);
    line += static_cast<char>(c);
    if (c == '\n') {
      if (on_line) {
        on_line(line);
      }
      line.clear();
    }
  }
  std::fclose(stream);
  return text;
}

[[noreturn]] void execute(
    const std::vector<std::string>& args,
    const ProgramOptions& options) {
  if (options.output == ProgramOptions::Output::kClosed) {
    close(STDOUT_FILENO);
  }
  std::signal(SIGHUP, options.nohup ? SIG_IGN : SIG_DFL);
  if (const size_t file_size_limit = options.file_size_limit;
      file_size_limit > 0) {
    // Ignored, so that write() fails (EFBIG) as it does on a full disk.
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{file_size_limit, file_size_limit};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  std::vector<char*> argv{const_cast<char*>(TORCHLORA_PROGRAM)};
  for (const std::string& arg : args) {
    argv.push_back(const_cast<char*>(arg.c_str()));
  }
  argv.push_back(nullptr);
  execv(TORCHLORA_PROGRAM, argv.data());
  _exit(127);
}

} // namespace

ProgramResult run_program(
    const std::vector<std::string>& args,
    const ProgramOptions& options) {
  const std::array<int, 2> out = make_pipe();
  const std::array<int, 2> err = make_stderr(options.terminal_columns);
  const pid_t program = fork();
  if (program < 0) {
    throw std::runtime_error("fork");
  }
  if (program == 0) {
    dup2(out[1], STDOUT_FILENO);
    dup2(err[1], STDERR_FILENO);
    for (int end : {out[0], out[1], err[0], err[1]}) {
      close(end);
    }
    execute(args, options);
  }
  close(out[1]);
  close(err[1]);
  ProgramResult result;
  std::thread errors([&] { result.err = read_all(err[0], nullptr); });
  if (options.output == ProgramOptions::Output::kRead) {
    result.out = read_all(out[0], [&](const std::string& line) {
      if (options.on_line) {
        options.on_line(line, program);
      }
    });
  } else {
    close(out[0]);
  }
  errors.join();
  int status = 0;
  rusage usage{};
  wait4(program, &status, 0, &usage);
  result.peak_mib = usage.ru_maxrss / 1024;
  if (WIFEXITED(status)) {
    result.exit_code = WEXITSTATUS(status);
  }
  return result;
}

void ProgramTest::SetUp() {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  folder = std::filesystem::temp_directory_path() /
      ("torchlora_" + std::to_string(getpid()) + "_" + test->name());
  std::filesystem::create_directories(folder);
  data = folder / "pairs.jsonl";
  output = folder / "out";
  model = std::filesystem::path(TORCHLORA_TEST_DATA) / "tiny" / "E2B";
  write_lines(data, rows(20));
}

void ProgramTest::TearDown() {
  std::filesystem::remove_all(folder);
}

std::vector<std::string> ProgramTest::rows(size_t count) {
  std::vector<std::string> lines;
  for (size_t i = 0; i < count; ++i) {
    const std::string n = std::to_string(i);
    lines.push_back(
        R"({"prompt": "Question )" + n + R"(: ", "chosen": "a kind answer )" +
        n + R"(", "rejected": "no )" + n + R"("})");
  }
  return lines;
}

void ProgramTest::write_lines(
    const std::filesystem::path& path,
    const std::vector<std::string>& lines) {
  std::ofstream file(path);
  for (const std::string& line : lines) {
    file << line << "\n";
  }
}

std::vector<std::string> ProgramTest::args_with(
    const std::vector<std::string>& more) const {
  std::vector<std::string> args{
      "dpo",
      "--model_name_or_path",
      model,
      "--dataset_name",
      data,
      "--output_dir",
      output};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

std::vector<std::string> ProgramTest::dpo_args(
    const std::vector<std::string>& more) const {
  auto args = args_with(
      {"--per_device_train_batch_size", "2", "--torch_num_threads", "1"});
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

void ProgramTest::expect_refused(
    int exit_code,
    const std::vector<std::string>& args,
    const std::vector<std::string>& words) const {
  const ProgramResult result = run_program(args);
  EXPECT_EQ(result.exit_code, exit_code) << result.out << result.err;
  EXPECT_NE(result.err.find("torchlora: error: "), std::string::npos)
      << result.err;
  EXPECT_EQ(result.err.find("Exception raised"), std::string::npos)
      << result.err;
  EXPECT_LT(result.err.size(), 2000U) << result.err;
  EXPECT_LT(result.peak_mib, 1024);
  for (const std::string& word : words) {
    EXPECT_NE(result.err.find(word), std::string::npos)
        << "no \"" << word << "\" in: " << result.err;
  }
  EXPECT_FALSE(std::filesystem::exists(output));
}

} // namespace torchlora::cli
