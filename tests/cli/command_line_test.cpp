#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

#include <torch/version.h>
#include <nlohmann/json.hpp>

#include <torchlora/lora/overlay.h>
#include <torchlora/nn/compute.h>

#include "cli/program.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

class CommandLine : public ProgramTest {
 protected:
  /// training_args.json of a run of one step.
  nlohmann::json arguments_of(const std::vector<std::string>& more) const {
    std::vector<std::string> args = dpo_args({"--max_steps", "1"});
    args.insert(args.end(), more.begin(), more.end());
    const ProgramResult result = run_program(args);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    std::ifstream file(output / "training_args.json");
    return nlohmann::json::parse(file);
  }
};

TEST_F(CommandLine, PrintsVersionAndHelp) {
  const auto version = [] {
    const ProgramResult result = run_program({"--version"});
    EXPECT_EQ(result.exit_code, 0);
    return result.out;
  };
  const std::string text = version();
  const bool native = nn::compute_route() == nn::ComputeRoute::kNative;
  for (const char* line :
       {"torchlora " TORCHLORA_VERSION "\n",
        "\nLibTorch " TORCH_VERSION "\n",
        "\ncompiler " TORCHLORA_COMPILER "\n",
        native ? "products: native\n" : "products: upcast",
        has_weight_overlay() ? "\nweight overlay: yes\n"
                             : "\nweight overlay: no"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << text;
  }
  for (const char* route : {"native", "upcast"}) {
    setenv("TORCHLORA_COMPUTE_ROUTE", route, /*overwrite=*/1);
    EXPECT_NE(
        version().find(std::string("products: ") + route), std::string::npos);
  }
  unsetenv("TORCHLORA_COMPUTE_ROUTE");
  const ProgramResult help = run_program({"dpo", "--help"});
  EXPECT_EQ(help.exit_code, 0);
  for (const char* word :
       {"LoRA:", "--learning_rate FLOAT=1e-06", "--lora_r INT=16"}) {
    EXPECT_NE(help.out.find(word), std::string::npos) << help.out;
  }
  EXPECT_EQ(run_program({}).exit_code, 2);
}

TEST_F(CommandLine, SuggestsTheNearestName) {
  expect_refused(2, {"dop"}, {"\"dop\"", "dpo"});
  expect_refused(
      2,
      dpo_args({"--learning-rat", "1"}),
      {"--learning-rat", "learning_rate"});
  expect_refused(2, {"dpo", "--output_dir", output}, {"--model_name_or_path"});
}

TEST_F(CommandLine, TellsWhatBecameOfOldNames) {
  expect_refused(
      2, dpo_args({"--max_prompt_length", "9"}), {"--max_length bounds both"});
  expect_refused(2, dpo_args({"--max-seq-length", "9"}), {"--max_length"});
  expect_refused(
      2, dpo_args({"--evaluation_strategy", "no"}), {"--eval_strategy"});
}

TEST_F(CommandLine, NamesAllFlagsThatDoNotExistAtOnce) {
  expect_refused(
      2,
      dpo_args(
          {"--load_in_4bit",
           "--learning-rat",
           "1",
           "--deepspeed",
           "zero3.json",
           "--optim=adafactor",
           "--bf16"}),
      {"--load_in_4bit does not exist: quantized bases",
       "--learning-rat is unknown; did you mean --learning_rate?",
       "--deepspeed does not exist: several processes",
       "--optim does not exist: the optimizer is AdamW"});
}

TEST_F(CommandLine, AcceptsHarmlessFlagsOfTrlWithAWarning) {
  write_lines(
      folder / "run.toml", {"gradient_checkpointing = true", "fp16 = false"});
  const ProgramResult result = run_program(dpo_args(
      {"--max_steps",
       "1",
       "--bf16",
       "--report_to",
       "tensorboard",
       "wandb",
       "--no_remove_unused_columns",
       "--optim",
       "adamw_torch",
       "--label_smoothing",
       "0.0",
       "--load_in_4bit",
       "False",
       "--config",
       folder / "run.toml"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* word :
       {"without effect here:\n  --bf16: ",
        "--report_to: log.jsonl",
        "--no_remove_unused_columns: ",
        "\"gradient_checkpointing\" of the --config file: "}) {
    EXPECT_NE(result.err.find(word), std::string::npos) << word << result.err;
  }
  for (const char* word : {"optim", "smoothing", "4bit", "fp16"}) {
    EXPECT_EQ(result.err.find(word), std::string::npos) << word << result.err;
  }
}

// Every flag of `trl dpo` is accepted, or its refusal says why.
TEST_F(CommandLine, KnowsEveryFlagOfTrlAndSoDoesThePage) {
  const fs::path root =
      fs::path(TORCHLORA_TEST_DATA).parent_path().parent_path();
  std::ifstream page_file(root / "docs" / "coming_from_trl.md");
  const std::string page{std::istreambuf_iterator<char>(page_file), {}};
  std::ifstream names(fs::path(TORCHLORA_TEST_DATA) / "cli" / "trl_flags.txt");
  std::vector<std::string> args{"dpo"};
  for (std::string name; std::getline(names, name);) {
    args.push_back("--" + name);
    EXPECT_NE(page.find("`" + name + "`"), std::string::npos) << name;
  }
  EXPECT_GT(args.size(), 150U);
  const ProgramResult result = run_program(args);
  EXPECT_EQ(result.exit_code, 2);
  EXPECT_EQ(result.err.find("is unknown"), std::string::npos) << result.err;
  const ProgramResult help = run_program({"dpo", "--help"});
  std::istringstream words(help.out);
  for (std::string word; words >> word;) {
    if (word.starts_with("--") && word.size() > 3) {
      const std::string name = word.substr(2, word.find_first_of("=,[") - 2);
      EXPECT_NE(page.find("`" + name + "`"), std::string::npos) << name;
    }
  }
}

TEST_F(CommandLine, WarnsOfFlagsThatOthersMakeVoid) {
  const ProgramResult result = run_program(dpo_args(
      {"--max_steps",
       "1",
       "--num_train_epochs",
       "2",
       "--warmup_steps",
       "3",
       "--lr_scheduler_type",
       "constant",
       "--save_strategy",
       "no",
       "--save_steps",
       "5",
       "--eval_steps",
       "4",
       "--per_device_eval_batch_size",
       "2"}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* word :
       {"--num_train_epochs: without effect",
        "--warmup_steps: without effect",
        "--save_steps: without effect",
        "--eval_steps, --per_device_eval_batch_size: without effect"}) {
    EXPECT_NE(result.err.find(word), std::string::npos) << word << result.err;
  }
}

TEST_F(CommandLine, TakesEverySeedOfItsType) {
  EXPECT_EQ(
      arguments_of({"--seed", "18446744073709551615"})["seed"],
      18446744073709551615U);
  fs::remove_all(output);
  expect_refused(
      2,
      dpo_args({"--seed", "18446744073709551616"}),
      {"--seed", "18446744073709551616"});
}

TEST_F(CommandLine, RefusesValuesThatCannotBe) {
  expect_refused(2, dpo_args({"--learning_rate", "fast"}), {"learning_rate"});
  expect_refused(2, dpo_args({"--dtype", "int8"}), {"--dtype", "bfloat16"});
  expect_refused(2, dpo_args({"--lora_r", "0"}), {"--lora_r", "positive"});
  expect_refused(2, dpo_args({"--lora_dropout", "1"}), {"--lora_dropout"});
  expect_refused(
      2, dpo_args({"--per_device_train_batch_size", "0"}), {"batch_size"});
  expect_refused(2, dpo_args({"stray"}), {"stray"});
}

TEST_F(CommandLine, TakesHyphensAndBooleanValues) {
  const nlohmann::json arguments = arguments_of(
      {"--learning-rate=1e-4",
       "--use-rslora",
       "true",
       "--eval_on_start",
       "no",
       "--lora-target-modules",
       "q_proj",
       "o_proj",
       "--seed",
       "7",
       "--beta",
       ".5",
       "--max_grad_norm",
       "+2."});
  EXPECT_EQ(arguments["learning_rate"], 1e-4);
  EXPECT_EQ(arguments["use_rslora"], true);
  EXPECT_EQ(arguments["eval_on_start"], false);
  EXPECT_EQ(arguments["seed"], 7);
  EXPECT_EQ(arguments["beta"], 0.5);
  EXPECT_EQ(arguments["max_grad_norm"], 2);
  EXPECT_EQ(arguments["lora_alpha"], 32);
  EXPECT_EQ(
      arguments["lora_target_modules"], nlohmann::json({"q_proj", "o_proj"}));
}

TEST_F(CommandLine, ReadsTomlAndTheCommandLineWins) {
  write_lines(
      folder / "run.toml",
      {"# a comment",
       "learning-rate = 2e-5",
       "use_rslora = true",
       "lora_r = 4",
       "lora_target_modules = [\"q_proj\", \"v_proj\"]"});
  const nlohmann::json arguments =
      arguments_of({"--config", folder / "run.toml", "--lora_r", "2"});
  EXPECT_EQ(arguments["learning_rate"], 2e-5);
  EXPECT_EQ(arguments["use_rslora"], true);
  EXPECT_EQ(arguments["lora_r"], 2);
  EXPECT_EQ(
      arguments["lora_target_modules"], nlohmann::json({"q_proj", "v_proj"}));
}

TEST_F(CommandLine, ReadsIni) {
  write_lines(folder / "run.ini", {"; a comment", "[dpo]", "beta=0.3"});
  EXPECT_EQ(arguments_of({"--config", folder / "run.ini"})["beta"], 0.3);
}

TEST_F(CommandLine, RefusesConfigFilesThatCannotBe) {
  const auto config = folder / "run.toml";
  const auto args = dpo_args({"--config", config});
  expect_refused(2, args, {config});
  write_lines(config, {"learning_rat = 1"});
  expect_refused(2, args, {"\"learning_rat\"", "--learning_rate"});
  write_lines(config, {"[sft]", "learning_rate = 1"});
  expect_refused(2, args, {"sft", "[dpo]"});
  write_lines(config, {"learning_rate = fast"});
  expect_refused(2, args, {"learning_rate", "fast"});
  write_lines(config, {"beta = 1", "seed = 1", "beta = 2"});
  expect_refused(2, args, {"\"beta\"", "twice"});
}

} // namespace
} // namespace torchlora::cli
