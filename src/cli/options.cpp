#include "cli/options.h"

#include <algorithm>
#include <cctype>

#include <c10/util/Exception.h>

#include <torchlora/init/initializer.h>

#include "cli/numbers.h"

namespace torchlora::cli {
namespace {

constexpr const char* kModel = "Model";
constexpr const char* kData = "Data";
constexpr const char* kLora = LoraOptions::kGroup;
constexpr const char* kOutput = "Output";

bool is_plain_name(const std::string& value) {
  return !value.empty() &&
      std::all_of(value.begin(), value.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '.';
      });
}

/// Checks that a value is no list: commas or spaces between plain names.
void check_separation(const char* flag, const std::string& value) {
  const size_t end = value.find_first_of(", ");
  if (end == std::string::npos || !is_plain_name(value.substr(0, end))) {
    return;
  }
  std::string names = value;
  std::replace(names.begin(), names.end(), ',', ' ');
  const bool is_list =
      std::all_of(names.begin(), names.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '_' || c == '.' || c == ' ';
      });
  TORCH_CHECK_VALUE(
      !is_list,
      flag,
      ": the names must be values of their own, found \"",
      value,
      "\"; write ",
      flag,
      " ",
      names);
}

InitLoraWeights init_from(const std::string& value) {
  const std::string lower = CLI::detail::to_lower(value);
  if (lower == "true" || lower == "false") {
    return InitLoraWeights(lower == "true");
  }
  return InitLoraWeights(value);
}

} // namespace

void ModelOptions::add_to(CLI::App& app) {
  app.add_option(
         "--model_name_or_path",
         model_name_or_path,
         "Hugging Face folder of a Gemma 4 checkpoint")
      ->type_name("DIR")
      ->required()
      ->group(kModel);
  app.add_option(
         "--adapter_name_or_path",
         adapter_name_or_path,
         "continue from this adapter (its rank and targets hold; the LoRA "
         "flags do not apply)")
      ->type_name("DIR")
      ->group(kModel);
  app.add_option(
         "--dtype",
         dtype,
         "of the frozen weights in memory. auto: the checkpoint's, mapped "
         "from the file (TRL's default is float32); adapters are always "
         "float32")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->capture_default_str()
      ->group(kModel);
  app.add_option(
         "--torch_num_threads",
         torch_num_threads,
         "threads of LibTorch; 0: its own choice")
      ->check(not_negative())
      ->capture_default_str()
      ->group(kModel);
}

std::optional<at::ScalarType> ModelOptions::storage_dtype() const {
  if (dtype == "auto") {
    return std::nullopt;
  }
  return dtype == "float32" ? at::kFloat : at::kBFloat16;
}

void DataOptions::add_to(CLI::App& app) {
  app.add_option(
         "--dataset_name",
         dataset_name,
         "training data, one JSON object per line")
      ->type_name("FILE")
      ->required()
      ->group(kData);
  app.add_option(
         "--eval_dataset_name",
         eval_dataset_name,
         "held-out data in the same format")
      ->type_name("FILE")
      ->group(kData);
}

void LoraOptions::add_to(CLI::App& app) {
  app.add_flag("--use_peft")
      ->description("accepted and without effect: LoRA is always on")
      ->group(kLora);
  app.add_option("--lora_r", r, "rank")->capture_default_str()->group(kLora);
  app.add_option("--lora_alpha", alpha, "the update is scaled by alpha / r")
      ->capture_default_str()
      ->group(kLora);
  app.add_option(
         "--lora_dropout",
         dropout,
         "dropout of the update's input; DPO disables it")
      ->capture_default_str()
      ->group(kLora);
  app.add_option(
         "--lora_target_modules",
         target_modules,
         "modules to adapt: names; all-linear; or one regular expression that "
         "matches whole module names (one plain name is a name). Default: "
         "q_proj and v_proj of the language model")
      ->group(kLora);
  app.add_option(
         "--exclude_modules",
         exclude_modules,
         "modules to leave out, with everything below them: names or one "
         "regular expression")
      ->group(kLora);
  app.add_option(
         "--lora_modules_to_save",
         modules_to_save,
         "modules to train whole and save with the adapter: names")
      ->group(kLora);
  app.add_flag("--use_rslora", use_rslora, "scale by alpha / sqrt(r)")
      ->group(kLora);
  app.add_flag("--use_dora", use_dora, "train a magnitude per channel (DoRA)")
      ->group(kLora);
  app.add_option(
         "--init_lora_weights",
         init_lora_weights,
         "true, false or the name of an initializer: gaussian, olora, pissa, "
         "orthogonal, mica")
      ->capture_default_str()
      ->group(kLora);
}

LoraConfig LoraOptions::config() const {
  TORCH_CHECK_VALUE(
      r <= kLargestRank,
      "--lora_r must be at most ",
      kLargestRank,
      ", found ",
      r,
      "; a rank above the sizes of a weight adds nothing");
  for (const std::string& value : modules_to_save) {
    check_separation("--lora_modules_to_save", value);
  }
  const auto config =
      LoraConfig(r)
          .init_lora_weights(init_from(init_lora_weights))
          .lora_alpha(alpha)
          .lora_dropout(dropout)
          .use_rslora(use_rslora)
          .use_dora(use_dora)
          .target_modules(module_names("--lora_target_modules", target_modules))
          .exclude_modules(module_names("--exclude_modules", exclude_modules))
          .modules_to_save(modules_to_save)
          .task_type("CAUSAL_LM");
  try {
    config.validate();
  } catch (const c10::ValueError& e) {
    TORCH_CHECK_VALUE(
        false,
        "--lora_r, --lora_alpha or --lora_dropout: ",
        e.what_without_backtrace());
  }
  const auto& traits = init::traits_of(config);
  TORCH_CHECK_VALUE(
      !traits.needs_data && !traits.needs_config,
      "--init_lora_weights ",
      init_lora_weights,
      " needs data or a quantizer, which the program does not give it; the "
      "library does (torchlora/tools/preprocess.h)");
  TORCH_CHECK_VALUE(
      init::is_repeatable(config),
      "--init_lora_weights ",
      init_lora_weights,
      " draws at random how it changes the base weights, which the saved "
      "adapter would not tell; pissa is as fast here and can be repeated");
  return config;
}

void OutputOptions::add_to(CLI::App& app) {
  app.add_option(
         "--output_dir",
         output_dir,
         "folder of the adapter, the logs and the checkpoints")
      ->type_name("DIR")
      ->required()
      ->group(kOutput);
  app.add_flag(
         "--overwrite_output_dir",
         overwrite_output_dir,
         "allow output folders that are not empty")
      ->group(kOutput);
  app.add_option(
         "--merged_output_dir",
         merged_output_dir,
         "also write the merged model here, as a whole Hugging Face folder, "
         "and check it")
      ->type_name("DIR")
      ->group(kOutput);
}

ModuleNames module_names(
    const char* flag,
    const std::vector<std::string>& values) {
  for (const std::string& value : values) {
    check_separation(flag, value);
  }
  if (values.empty()) {
    return {};
  }
  if (values.size() == 1 && !is_plain_name(values.front())) {
    return ModuleNames(values.front());
  }
  return ModuleNames(values);
}

} // namespace torchlora::cli
