// What the program prints, and what becomes of a run when nobody reads it.
#include <csignal>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include <nlohmann/json.hpp>

#include "cli/program.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

class TerminalOutput : public ProgramTest {
 protected:
  /// The lines that a terminal shows one after the other, without control
  /// sequences.
  static std::vector<std::string> lines_on_terminal(const std::string& text) {
    std::vector<std::string> lines(1);
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\r' || text[i] == '\n') {
        lines.emplace_back();
      } else if (text.compare(i, 4, "\x1b[2K") == 0) {
        i += 3;
      } else {
        lines.back() += text[i];
      }
    }
    return lines;
  }

  /// The words between spaces of the line that begins with `first`.
  static std::vector<std::string> columns(
      const std::string& text,
      const std::string& first) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      std::istringstream stream(line);
      std::vector<std::string> words{
          std::istream_iterator<std::string>(stream), {}};
      if (!words.empty() && words.front() == first) {
        return words;
      }
    }
    return {};
  }
};

TEST_F(TerminalOutput, TheProgressLineFitsTheTerminal) {
  for (const int width : {40, 80, 200}) {
    fs::remove_all(output);
    const ProgramResult result = run_program(
        dpo_args({"--eval_dataset_name", data, "--max_steps", "3"}),
        {.terminal_columns = width});
    ASSERT_EQ(result.exit_code, 0) << result.err;
    bool has_bar = false;
    for (const std::string& line : lines_on_terminal(result.err)) {
      if (line.starts_with("torchlora: warning")) {
        continue;
      }
      EXPECT_LT(line.size(), static_cast<size_t>(width)) << line;
      has_bar |= line.find('[') != std::string::npos;
    }
    EXPECT_TRUE(has_bar);
    if (width >= 80) {
      EXPECT_NE(result.err.find("evaluating 1/"), std::string::npos);
      EXPECT_NE(result.err.find(" left"), std::string::npos);
    }
    EXPECT_EQ(result.out.find('\x1b'), std::string::npos);
    std::istringstream lines(result.out);
    for (std::string line; std::getline(lines, line);) {
      if (line.find("held out") == std::string::npos && line[0] == ' ') {
        EXPECT_LT(line.size(), 80U) << line;
      }
    }
  }
}

TEST_F(TerminalOutput, APipeGetsRecordsAndNoBar) {
  const ProgramResult result = run_program(dpo_args(
      {"--eval_dataset_name",
       data,
       "--max_steps",
       "2",
       "--logging_steps",
       "1"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.err.find('\r'), std::string::npos) << result.err;
  EXPECT_EQ(result.err.find("[="), std::string::npos) << result.err;
  EXPECT_EQ(
      columns(result.out, "step"),
      (std::vector<std::string>{
          "step",
          "loss",
          "accuracy",
          "margin",
          "learning",
          "rate",
          "tokens/s"}));
  EXPECT_EQ(columns(result.out, "1").size(), 6U) << result.out;
  EXPECT_NE(result.out.find("held out, 0"), std::string::npos);
  EXPECT_NE(result.out.find(", products "), std::string::npos) << result.out;
  std::ifstream log(output / "log.jsonl");
  std::string line;
  ASSERT_TRUE(std::getline(log, line));
  EXPECT_EQ(nlohmann::json::parse(line).size(), 16U) << line;
}

TEST_F(TerminalOutput, ARunGoesOnWhenNobodyReadsIt) {
  for (const auto stdout_is :
       {ProgramOptions::Output::kBrokenPipe, ProgramOptions::Output::kClosed}) {
    fs::remove_all(output);
    const ProgramResult result = run_program(
        dpo_args({"--max_steps", "2", "--logging_steps", "1"}),
        {.output = stdout_is});
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(fs::exists(output / "adapter_model.safetensors"));
    std::ifstream log(output / "log.jsonl");
    for (std::string line; std::getline(log, line);) {
      EXPECT_EQ(line.front(), '{') << line;
    }
  }
}

TEST_F(TerminalOutput, AClosedTerminalSavesACheckpoint) {
  const auto hang_up = [](const std::string& line, pid_t program) {
    if (line.find("tokens/s") != std::string::npos) {
      kill(program, SIGHUP);
      kill(program, SIGHUP); // the kernel sends one and the shell another
    }
  };
  const auto args = dpo_args({"--max_steps", "100000", "--logging_steps", "1"});
  const ProgramResult result = run_program(args, {.on_line = hang_up});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_NE(result.out.find("interrupted after step"), std::string::npos);
  EXPECT_TRUE(fs::exists(output / "trainer_state.json"));
  fs::remove_all(output);
  const ProgramResult ignored = run_program(
      dpo_args({"--max_steps", "3", "--logging_steps", "1"}),
      {.on_line = hang_up, .nohup = true});
  EXPECT_EQ(ignored.exit_code, 0) << ignored.err;
}

TEST_F(TerminalOutput, TextOfFilesCannotSteerTheTerminal) {
  const std::string steering =
      "a\x1b[2Jb\xc2\x9b"
      "c\xe2\x80\xae"
      "d\xff";
  data = folder / ("pairs" + steering + ".jsonl");
  const ProgramResult result = run_program(dpo_args());
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(
      result.err.find("pairsa\\x1b[2Jb\\x9bc\\u202ed\\xff.jsonl"),
      std::string::npos)
      << result.err;
  EXPECT_EQ(result.err.find('\x1b'), std::string::npos);
}

TEST_F(TerminalOutput, HelpBreaksLinesBetweenWords) {
  const ProgramResult result = run_program({"dpo", "--help"});
  EXPECT_EQ(result.exit_code, 0);
  std::istringstream lines(result.out);
  std::set<std::string> words;
  for (std::string line; std::getline(lines, line);) {
    EXPECT_LE(line.size(), 80U) << line;
  }
  for (const char* whole :
       {"--per_device_train_batch_size", "constant_with_warmup", "reference"}) {
    EXPECT_NE(result.out.find(whole), std::string::npos) << result.out;
  }
}

} // namespace
} // namespace torchlora::cli
