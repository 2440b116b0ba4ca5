#include <algorithm>
#include <thread>

#include <c10/util/ScopeExit.h>
#include <fmt/format.h>
#include <torch/utils.h>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/models/gemma4/chat_format.h>

#include "cli/adapt.h"
#include "cli/callbacks.h"
#include "cli/chat_template.h"
#include "cli/commands.h"
#include "cli/dpo_options.h"
#include "cli/ignored_flags.h"
#include "cli/interrupt.h"
#include "cli/merge_and_save.h"
#include "cli/output_dir.h"
#include "cli/report.h"
#include "cli/terminal.h"
#include "cli/trl_flags.h"
#include "io/input_file.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

train::PreferenceTokenSet tokenized(
    const std::string& file,
    const Tokenizer& tokenizer,
    const DpoOptions& options) {
  if (file.empty()) {
    return {};
  }
  const auto examples = train::load_preference_dataset(file);
  check_chat_template(options.model.model_name_or_path, examples);
  const gemma4::ChatFormat chat_format;
  train::PreferenceTokenSet set = train::tokenize_preferences(
      examples, tokenizer, options.config, &chat_format);
  say_data(file, set.statistics);
  return set;
}

void merge(
    const OutputDir& destination,
    gemma4::Gemma4ForCausalLM& model,
    PeftModel& peft_model,
    const train::DpoTrainer& trainer,
    int64_t pad_token_id) {
  const auto& held_out = trainer.eval_dataset().examples;
  const auto& examples =
      held_out.empty() ? trainer.train_dataset().examples : held_out;
  std::vector<int64_t> indices{0};
  if (examples.size() > 1) {
    indices.push_back(1);
  }
  const train::PreferenceBatch batch = train::collate_preferences(
      examples, indices, pad_token_id, trainer.config());
  const MergeReport report = merge_and_save(
      model, peft_model, destination.path(), batch.input_ids, batch.positions);
  say(fmt::format(
      "merged model, in the checkpoint's dtype: {}\nreloaded, its logits "
      "differ from the adapted model's "
      "by at most {:.3g} (the adapter changes them by up to {:.3g}; {} "
      "positions of {} data)",
      destination.path().string(),
      report.largest_difference,
      report.largest_effect,
      report.num_positions,
      held_out.empty() ? "training" : "held-out"));
}

/// Sets the number of threads. libgomp ends the program if it cannot start
/// them, so a number far above that of the processors is refused before.
void set_num_threads(int64_t num_threads) {
  const int64_t processors =
      std::max<int64_t>(1, std::thread::hardware_concurrency());
  const int64_t largest = std::max<int64_t>(64, 4 * processors);
  TORCH_CHECK_VALUE(
      num_threads <= largest,
      "--torch_num_threads must be at most ",
      largest,
      " on this machine of ",
      processors,
      " processors, found ",
      num_threads);
  TORCH_CHECK_VALUE(
      num_threads > 0 || at::get_num_threads() <= largest,
      "OMP_NUM_THREADS or MKL_NUM_THREADS must be at most ",
      largest,
      " on this machine of ",
      processors,
      " processors, found ",
      at::get_num_threads());
  if (num_threads > 0) {
    at::set_num_threads(static_cast<int>(num_threads));
  }
}

void check_inputs(const DpoOptions& options, const std::string& config_file) {
  TORCH_CHECK_VALUE(
      !options.output.output_dir.empty(), "--output_dir must name a folder");
  std::error_code ignored;
  TORCHLORA_CHECK_DATA(
      fs::is_directory(options.model.model_name_or_path, ignored),
      "--model_name_or_path: there is no folder ",
      options.model.model_name_or_path,
      "; the name of a model on the hub is not downloaded, give the folder of "
      "its files");
  const std::vector<InputPath> files{
      {"--dataset_name", options.data.dataset_name},
      {"--eval_dataset_name", options.data.eval_dataset_name},
      {"--config", config_file}};
  for (const InputPath& file : files) {
    TORCHLORA_CHECK_DATA(
        file.path.empty() || io::is_present(file.path),
        file.flag,
        ": there is no file ",
        file.path.string(),
        "; a data set on the hub is not downloaded, give a JSONL file of it");
  }
  std::vector<InputPath> inputs = files;
  if (!options.model.adapter_name_or_path.empty()) {
    for (const char* name :
         {"adapter_config.json", "adapter_model.safetensors"}) {
      inputs.push_back(
          {"--adapter_name_or_path",
           fs::path(options.model.adapter_name_or_path) / name});
    }
  }
  check_inputs_survive(
      {"--model_name_or_path", options.model.model_name_or_path},
      inputs,
      options.output.output_dir,
      options.output.merged_output_dir);
}

int train(
    const DpoOptions& options,
    const std::string& arguments,
    const std::string& config_file) {
  const train::DpoConfig& config = options.config;
  const LoraConfig lora_config = options.lora.config();
  set_num_threads(options.model.torch_num_threads);
  check_inputs(options, config_file);
  const OutputDir output(
      config.output_dir, "--output_dir", options.output.overwrite_output_dir);
  std::unique_ptr<OutputDir> merged;
  if (!options.output.merged_output_dir.empty()) {
    merged = std::make_unique<OutputDir>(
        fs::weakly_canonical(options.output.merged_output_dir),
        "--merged_output_dir",
        options.output.overwrite_output_dir);
  }

  const auto tokenizer =
      Tokenizer::from_pretrained(options.model.model_name_or_path);
  // No result depends on padding, so any token will do.
  const int64_t pad_token_id = std::max<int64_t>(tokenizer.pad_token_id(), 0);
  auto train_set = tokenized(options.data.dataset_name, tokenizer, options);
  auto eval_set = tokenized(options.data.eval_dataset_name, tokenizer, options);

  gemma4::Gemma4ForCausalLM model = gemma4::from_pretrained(
      options.model.model_name_or_path,
      {.dtype = options.model.storage_dtype()});
  say_model(model);
  torch::manual_seed(config.seed);
  PeftModel peft_model = options.model.adapter_name_or_path.empty()
      ? adapt(model, lora_config)
      : PeftModel::from_pretrained(
            *model,
            options.model.adapter_name_or_path,
            "default",
            LoadOptions().is_trainable(true));
  train::DpoTrainer trainer(
      *model,
      peft_model,
      config,
      std::move(train_set),
      std::move(eval_set),
      pad_token_id);
  say_what_is_trained(peft_model, trainer);

  io::write_file_atomic(output.path() / "training_args.json", arguments);
  // A run that ends before its first step leaves nothing behind.
  const auto clean = c10::make_scope_exit([&] {
    if (trainer.state().global_step == 0) {
      std::error_code ignored;
      fs::remove(output.path() / "training_args.json", ignored);
      fs::remove(output.path() / "log.jsonl", ignored);
    }
  });
  auto progress = std::make_shared<Progress>();
  auto watcher = std::make_shared<ProgressCallback>(progress);
  trainer.add_callback(watcher);
  if (options.dump_gradients_step > 0) {
    trainer.add_callback(std::make_shared<GradientDump>(
        options.dump_gradients_step, output.path()));
  }
  handle_interrupts();
  const train::TrainOutput result = trainer.train(&stop_requested());
  progress->finish();
  if (result.interrupted) {
    say_how_to_go_on(output.path(), result.global_step, trainer.reference());
    return kInterrupted;
  }
  trainer.save_model(output.path());
  say("adapter: " + output.path().string());
  say_held_out(watcher->evaluations(), result.global_step);
  if (stop_requested()) {
    say(fmt::format(
        "interrupted after the last step; the adapter is whole{}",
        merged ? ", the model was not merged" : ""));
    return kInterrupted;
  }
  if (merged) {
    merge(*merged, model, peft_model, trainer, pad_token_id);
  }
  return stop_requested() ? kInterrupted : 0;
}

} // namespace

int dpo(const std::vector<std::string>& args) {
  CLI::App app(
      "Fine-tunes a LoRA adapter of a Gemma 4 checkpoint on preference\npairs "
      "(TRL's `trl dpo`).",
      "torchlora dpo");
  DpoOptions options;
  options.add_to(app);
  if (!parse_command_line(app, args, trl_flags())) {
    return 0;
  }
  options.resolve();
  check_flags_have_effect(app);
  // A path may hold bytes that are not UTF-8.
  const std::string arguments = resolved_arguments(app).dump(
      2, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  return train(
      options, arguments + "\n", app.get_config_ptr()->as<std::string>());
}

} // namespace torchlora::cli
