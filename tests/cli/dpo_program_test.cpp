#include <csignal>
#include <limits>
#include <set>

#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>

#include "cli/program.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

class DpoProgram : public ProgramTest {
 protected:
  /// A copy of the checkpoint that a test may damage.
  void copy_model() {
    const fs::path copy = folder / "model";
    fs::copy(model, copy);
    model = copy;
  }

  std::set<std::string> files_below(const fs::path& root) const {
    std::set<std::string> files;
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      if (entry.is_regular_file()) {
        files.insert(fs::relative(entry.path(), root));
      }
    }
    return files;
  }
};

TEST_F(DpoProgram, TrainsSavesMergesAndReports) {
  const ProgramResult result = run_program(dpo_args(
      {"--eval_dataset_name",
       data,
       "--merged_output_dir",
       folder / "merged",
       "--max_steps",
       "3",
       "--logging_steps",
       "2",
       "--eval_on_start",
       "--lora_dropout",
       "0.1",
       "--learning_rate",
       "1e-3",
       "--dtype",
       "float32",
       "--dump_gradients_step",
       "2"}));
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (const char* word :
       {"20 examples, 0 dropped",
        "left aside",
        "model.vision_tower",
        "trainable params: 23,808 ||",
        "reference: the base model",
        "   step      loss  accuracy     margin  learning rate  tokens/s\n"
        "      0    0.",
        "\n      2    0.",
        "trained 3 steps in 0",
        "held out, before: accuracy 0.0000",
        "held out, after: ",
        "reloaded, its logits differ"}) {
    EXPECT_NE(result.out.find(word), std::string::npos) << word << result.out;
  }
  EXPECT_NE(result.err.find("lora_dropout"), std::string::npos) << result.err;
  EXPECT_EQ(
      files_below(output),
      (std::set<std::string>{
          "adapter_config.json",
          "adapter_model.safetensors",
          "checkpoint-3/adapter_config.json",
          "checkpoint-3/adapter_model.safetensors",
          "checkpoint-3/optimizer.safetensors",
          "checkpoint-3/trainer_state.json",
          "grads_step2.safetensors",
          "log.jsonl",
          "trainer_state.json",
          "training_args.json"}));
  const io::SafetensorsFile adapter(output / "adapter_model.safetensors");
  const io::SafetensorsFile gradients(output / "grads_step2.safetensors");
  EXPECT_EQ(adapter.keys(), gradients.keys());
  // The merged folder holds the towers that were left aside, too.
  const io::SafetensorsFile source(model / "model.safetensors");
  const io::SafetensorsFile merged(folder / "merged" / "model.safetensors");
  EXPECT_EQ(
      std::set(source.keys().begin(), source.keys().end()),
      std::set(merged.keys().begin(), merged.keys().end()));
}

// The rows that the merge is checked on are cut as those of training are.
TEST_F(DpoProgram, MergesAfterPromptsOfMoreThanTheDefaultLength) {
  std::string prompt;
  for (int i = 0; i < 1200; ++i) {
    prompt += "word ";
  }
  write_lines(
      data,
      {R"({"prompt": ")" + prompt +
       R"(", "chosen": "a kind answer", "rejected": "no"})"});
  const ProgramResult result = run_program(dpo_args(
      {"--max_steps",
       "1",
       "--max_length",
       "8192",
       "--eval_dataset_name",
       data,
       "--eval_on_start",
       "--eval_strategy",
       "no",
       "--merged_output_dir",
       folder / "merged"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("reloaded, its logits"), std::string::npos);
  EXPECT_NE(result.out.find("held out, before:"), std::string::npos);
  EXPECT_EQ(result.out.find("held out, after:"), std::string::npos);
}

TEST_F(DpoProgram, TrainsAndMergesDoraAndPissa) {
  const ProgramResult result = run_program(dpo_args(
      {"--use_dora",
       "--init_lora_weights",
       "pissa",
       "--max_steps",
       "2",
       "--learning_rate",
       "1e-3",
       "--merged_output_dir",
       folder / "merged"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("a frozen copy"), std::string::npos) << result.out;
  const io::SafetensorsFile adapter(output / "adapter_model.safetensors");
  EXPECT_EQ(adapter.keys().size() % 3, 0U);
}

TEST_F(DpoProgram, TrainsAModuleWholeAndMergesIt) {
  const ProgramResult result = run_program(dpo_args(
      {"--lora_modules_to_save",
       "norm",
       "--dtype",
       "float32",
       "--max_steps",
       "2",
       "--learning_rate",
       "1e-3",
       "--merged_output_dir",
       folder / "merged"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("reference: the base model"), std::string::npos);
  const io::SafetensorsFile adapter(output / "adapter_model.safetensors");
  const std::string norm = "model.language_model.norm.weight";
  ASSERT_TRUE(adapter.contains("base_model.model." + norm));
  const auto trained = adapter.tensor("base_model.model." + norm);
  const io::SafetensorsFile merged(folder / "merged" / "model.safetensors");
  const auto whole = merged.tensor(norm);
  EXPECT_TRUE(whole.equal(trained.to(whole.scalar_type())));
  const io::SafetensorsFile base(model / "model.safetensors");
  EXPECT_FALSE(base.tensor(norm).to(trained.scalar_type()).equal(trained));
}

// A step of Adam is of the size of the learning rate, and B begins at zero.
TEST_F(DpoProgram, LoraPlusGivesBItsOwnLearningRate) {
  const auto largest_B = [&](const char* ratio) {
    std::filesystem::remove_all(output);
    const ProgramResult result = run_program(dpo_args(
        {"--max_steps",
         "1",
         "--learning_rate",
         "1e-3",
         "--loraplus_lr_ratio",
         ratio}));
    EXPECT_EQ(result.exit_code, 0) << result.err;
    double largest = 0;
    const io::SafetensorsFile file(output / "adapter_model.safetensors");
    for (const auto& key : file.keys()) {
      if (key.find("lora_B") != std::string::npos) {
        largest =
            std::max(largest, file.tensor(key).abs().max().item<double>());
      }
    }
    return largest;
  };
  EXPECT_NEAR(largest_B("0"), 1e-3, 1e-4);
  EXPECT_NEAR(largest_B("8"), 8e-3, 8e-4);
}

TEST_F(DpoProgram, GoesOnFromAnAdapterWithItAsReference) {
  ASSERT_EQ(
      run_program(dpo_args({"--max_steps", "1", "--learning_rate", "1e-3"}))
          .exit_code,
      0);
  const fs::path adapter = output / "checkpoint-1";
  output = folder / "second";
  const ProgramResult result = run_program(dpo_args(
      {"--adapter_name_or_path", adapter, "--use_rslora", "--max_steps", "1"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("a frozen copy of the adapter"), std::string::npos)
      << result.out;
  EXPECT_NE(result.err.find("--use_rslora: without effect"), std::string::npos)
      << result.err;
}

TEST_F(DpoProgram, RefusesDataThatCannotBeUsed) {
  fs::remove(data);
  expect_refused(3, dpo_args(), {data});

  std::vector<std::string> lines = rows(20);
  lines[16] = R"({"prompt": "Question", "chosen": )";
  write_lines(data, lines);
  expect_refused(3, dpo_args(), {"pairs.jsonl:17"});

  lines = rows(20);
  lines[4] = R"({"prompt": "Question", "chosen": "yes"})";
  write_lines(data, lines);
  expect_refused(3, dpo_args(), {"pairs.jsonl:5", "rejected"});

  write_lines(data, {});
  expect_refused(3, dpo_args(), {data});
}

TEST_F(DpoProgram, RefusesTargetsThatDoNotExist) {
  expect_refused(
      2,
      dpo_args({"--lora_target_modules", "query_key_value"}),
      {"query_key_value"});
}

TEST_F(DpoProgram, RefusesTargetsThatTextNeverReaches) {
  for (const char* targets :
       {".*vision_tower.*q_proj.*", ".*\\.q_proj", "embed_vision"}) {
    expect_refused(
        2,
        dpo_args({"--lora_target_modules", targets}),
        {"text data never reaches", "--exclude_modules", "vision_tower"});
  }
  const ProgramResult result = run_program(dpo_args(
      {"--lora_target_modules",
       ".*\\.q_proj",
       "--exclude_modules",
       "vision_tower",
       "audio_tower",
       "--max_steps",
       "1"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
}

TEST_F(DpoProgram, RefusesACheckpointWithAMissingShard) {
  copy_model();
  fs::remove(model / "model.safetensors");
  io::write_file_atomic(
      model / "model.safetensors.index.json",
      R"({"metadata": {}, "weight_map": {)"
      R"("model.language_model.norm.weight": "model-00001-of-00002.safetensors"}})");
  expect_refused(3, dpo_args(), {"model-00001-of-00002.safetensors"});
}

TEST_F(DpoProgram, NamesAWeightThatIsNotFinite) {
  copy_model();
  const std::string damaged =
      "model.language_model.layers.1.mlp.down_proj.weight";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const io::SafetensorsFile file(model / "model.safetensors");
    for (const std::string& key : file.keys()) {
      tensors.emplace_back(key, file.tensor(key).clone());
      if (key == damaged) {
        tensors.back().second[0][0] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  io::save_safetensors(model / "model.safetensors", tensors);
  const ProgramResult result = run_program(dpo_args());
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_NE(result.err.find(damaged), std::string::npos) << result.err;
  EXPECT_FALSE(fs::exists(output));
}

TEST_F(DpoProgram, RefusesOutputFoldersItMustNotOrCannotUse) {
  const fs::path full = folder / "full";
  fs::create_directory(full);
  write_lines(full / "precious", {"data"});
  expect_refused(
      2,
      dpo_args({"--merged_output_dir", full}),
      {"--merged_output_dir", full, "--overwrite_output_dir"});
  expect_refused(
      2, dpo_args({"--merged_output_dir", output}), {"--merged_output_dir"});
  EXPECT_EQ(files_below(full), (std::set<std::string>{"precious"}));

  output = data / "out";
  expect_refused(1, dpo_args(), {output, "Not a directory"});
  output = full;
  EXPECT_EQ(run_program(dpo_args()).exit_code, 2);
  EXPECT_EQ(files_below(full), (std::set<std::string>{"precious"}));
}

TEST_F(DpoProgram, LeavesNothingHalfWrittenWhenTheDiskIsFull) {
  const ProgramResult result =
      run_program(dpo_args({"--max_steps", "1"}), {.file_size_limit = 16384});
  EXPECT_EQ(result.exit_code, 1) << result.out << result.err;
  EXPECT_NE(result.err.find("File too large"), std::string::npos) << result.err;
  EXPECT_EQ(
      files_below(output),
      (std::set<std::string>{"log.jsonl", "training_args.json"}));
}

TEST_F(DpoProgram, CtrlCSavesACheckpointThatCanBeUsed) {
  bool sent = false;
  const auto on_line = [&](const std::string& line, pid_t program) {
    if (!sent && line.find("tokens/s") != std::string::npos) {
      sent = true;
      kill(program, SIGINT);
    }
  };
  const ProgramResult result = run_program(
      dpo_args({"--max_steps", "100000", "--logging_steps", "1"}),
      {.on_line = on_line});
  EXPECT_EQ(result.exit_code, 130) << result.err;
  EXPECT_FALSE(fs::exists(output / "adapter_model.safetensors"));
  fs::path checkpoint;
  for (const auto& entry : fs::directory_iterator(output)) {
    if (entry.is_directory()) {
      checkpoint = entry.path();
    }
  }
  EXPECT_NE(
      result.out.find(checkpoint.string() + " --reference base"),
      std::string::npos)
      << result.out;

  output = folder / "second";
  const ProgramResult second = run_program(
      dpo_args({"--adapter_name_or_path", checkpoint, "--max_steps", "1"}));
  EXPECT_EQ(second.exit_code, 0) << second.err;
}

TEST_F(DpoProgram, ASecondSignalEndsItAtOnce) {
  bool sent = false;
  const auto on_line = [&](const std::string& line, pid_t program) {
    if (!sent && line.find("tokens/s") != std::string::npos) {
      sent = true;
      kill(program, SIGINT);
      kill(program, SIGTERM);
    }
  };
  const ProgramResult result = run_program(
      dpo_args({"--max_steps", "100000", "--logging_steps", "1"}),
      {.on_line = on_line});
  EXPECT_EQ(result.exit_code, 130);
  EXPECT_NE(result.err.find("ended at once"), std::string::npos) << result.err;
  EXPECT_EQ(
      files_below(output),
      (std::set<std::string>{"log.jsonl", "training_args.json"}));
}

} // namespace
} // namespace torchlora::cli
