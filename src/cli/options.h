#pragma once

#include <CLI/CLI.hpp>

#include <c10/core/ScalarType.h>

#include <torchlora/config/lora_config.h>

#include "cli/command_line.h"

// The groups of flags that all fine-tuning subcommands share, with TRL's and
// PEFT's names and defaults. Each group is a struct whose `add_to` adds its
// flags to a parser.
namespace torchlora::cli {

struct ModelOptions {
  std::string model_name_or_path;
  std::string adapter_name_or_path;
  std::string dtype = "auto";
  int64_t torch_num_threads = 0;

  void add_to(CLI::App& app);
  /// Returns the dtype of the weights in memory. nullopt: the checkpoint's.
  std::optional<at::ScalarType> storage_dtype() const;
};

struct DataOptions {
  std::string dataset_name;
  std::string eval_dataset_name;

  void add_to(CLI::App& app);
};

struct LoraOptions {
  static constexpr const char* kGroup = "LoRA";
  static constexpr int64_t kLargestRank = 65536;

  int64_t r = 16;
  double alpha = 32;
  /// TRL's default is 0.05, which its DPO then disables.
  double dropout = 0;
  std::vector<std::string> target_modules;
  std::vector<std::string> exclude_modules;
  std::vector<std::string> modules_to_save;
  bool use_rslora = false;
  bool use_dora = false;
  std::string init_lora_weights = "true";

  void add_to(CLI::App& app);
  /// ValueError for a value that is out of range.
  LoraConfig config() const;
};

struct OutputOptions {
  std::string output_dir;
  std::string merged_output_dir;
  bool overwrite_output_dir = false;

  void add_to(CLI::App& app);
};

/// Reads the values of the flag `flag`, which selects modules: none,
/// "all-linear", one regular expression (a value that is not a plain name, as
/// in TRL) or a list. ValueError for names with commas or spaces between them.
ModuleNames module_names(
    const char* flag,
    const std::vector<std::string>& values);

} // namespace torchlora::cli
