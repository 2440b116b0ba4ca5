// Folders and files that a run must not write to.
#include <csignal>
#include <fstream>

#include "cli/program.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

class OutputPaths : public ProgramTest {
 protected:
  std::string content(const fs::path& path) const {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void expect_words(
      const std::vector<std::string>& args,
      const std::vector<std::string>& words) const {
    const ProgramResult result = run_program(args);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    for (const std::string& word : words) {
      EXPECT_NE(result.err.find(word), std::string::npos) << result.err;
    }
  }
};

TEST_F(OutputPaths, TheFolderOfTheModelIsRefused) {
  const fs::path copy = folder / "model";
  fs::copy(model, copy);
  model = copy;
  for (const fs::path& same :
       {copy, copy / ".", copy / "..", folder / "link"}) {
    if (same.filename() == "link") {
      fs::create_directory_symlink(copy, same);
    }
    output = same.filename() == ".." ? same / "model" : same;
    expect_words(
        dpo_args({"--overwrite_output_dir"}),
        {"--output_dir", "--model_name_or_path"});
  }
  EXPECT_FALSE(fs::exists(copy / "adapter_config.json"));
  output = folder / "out";
  expect_words(
      dpo_args({"--overwrite_output_dir", "--merged_output_dir", copy}),
      {"--merged_output_dir", "--model_name_or_path"});
}

TEST_F(OutputPaths, InputsThatARunWouldOverwriteAreRefused) {
  fs::create_directories(output / "checkpoint-1");
  const auto refuse = [&](const fs::path& path) {
    fs::copy_file(data, path, fs::copy_options::overwrite_existing);
    const fs::path right = data;
    data = path;
    expect_words(
        dpo_args({"--overwrite_output_dir"}),
        {"would overwrite --dataset_name", path});
    EXPECT_EQ(content(path), content(right));
    data = right;
    fs::remove(path);
  };
  refuse(output / "log.jsonl");
  refuse(output / "training_args.json");
  refuse(output / "checkpoint-1" / "pairs.jsonl");
  // A link that the log would be written through.
  fs::create_symlink(data, output / "log.jsonl");
  expect_words(
      dpo_args({"--overwrite_output_dir"}), {"would overwrite --dataset_name"});
  fs::remove(output / "log.jsonl");
  // The adapter that the run begins with: the folder's own, or one of its
  // checkpoints.
  write_lines(output / "adapter_config.json", {"{}"});
  for (const fs::path& adapter : {output, output / "checkpoint-1"}) {
    expect_words(
        dpo_args({"--overwrite_output_dir", "--adapter_name_or_path", adapter}),
        {"would overwrite --adapter_name_or_path", adapter});
  }
  fs::remove(output / "adapter_config.json");
  // The model in the place of a checkpoint, data in the merged folder.
  const fs::path right = model;
  model = output / "checkpoint-1";
  expect_words(
      dpo_args({"--overwrite_output_dir"}),
      {"would overwrite --model_name_or_path"});
  model = right;
  fs::create_directory(folder / "merged");
  fs::copy_file(data, folder / "merged" / "held_out.jsonl");
  expect_words(
      dpo_args(
          {"--overwrite_output_dir",
           "--eval_dataset_name",
           folder / "merged" / "held_out.jsonl",
           "--merged_output_dir",
           folder / "merged"}),
      {"would overwrite --eval_dataset_name"});
  // What is not written may be there.
  fs::copy_file(data, output / "pairs.jsonl");
  data = output / "pairs.jsonl";
  const ProgramResult result =
      run_program(dpo_args({"--overwrite_output_dir", "--max_steps", "1"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(fs::exists(data));
}

TEST_F(OutputPaths, TwoRunsDoNotShareAFolder) {
  bool tried = false;
  const auto start_second = [&](const std::string& line, pid_t program) {
    if (!tried && line.find("tokens/s") != std::string::npos) {
      tried = true;
      expect_words(
          dpo_args({"--overwrite_output_dir"}), {"another run writes into"});
      kill(program, SIGTERM);
    }
  };
  const ProgramResult result = run_program(
      dpo_args({"--max_steps", "100000", "--logging_steps", "1"}),
      {.on_line = start_second});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_TRUE(tried);
  EXPECT_EQ(
      run_program(dpo_args({"--overwrite_output_dir", "--max_steps", "1"}))
          .exit_code,
      0);
}

} // namespace
} // namespace torchlora::cli
