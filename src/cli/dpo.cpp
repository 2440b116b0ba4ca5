#include <algorithm>

#include <unistd.h>

#include <c10/util/ScopeExit.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/models/gemma4/chat_format.h>
#include <torchlora/train/dpo.h>
#include <torchlora/train/dpo_loss.h>

#include "cli/adapt.h"
#include "cli/callbacks.h"
#include "cli/command_line.h"
#include "cli/commands.h"
#include "cli/interrupt.h"
#include "cli/merge_and_save.h"
#include "cli/options.h"
#include "cli/output_dir.h"
#include "cli/progress.h"
#include "cli/training_options.h"

namespace torchlora::cli {
namespace {

namespace fs = std::filesystem;

struct DpoOptions {
  ModelOptions model;
  DataOptions data;
  LoraOptions lora;
  OutputOptions output;
  train::DpoConfig config;
  int64_t max_length = 1024;
  int64_t dump_gradients_step = 0;

  void add_to(CLI::App& app);
  /// Sets the fields that the parser does not set, and checks all fields.
  void resolve();
};

void DpoOptions::add_to(CLI::App& app) {
  constexpr const char* kDpo = "DPO";
  model.add_to(app);
  data.add_to(app);
  output.add_to(app);
  lora.add_to(app);
  app.add_option("--beta", config.beta, "strength of the pull to the reference")
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--loss_type",
         config.loss_type,
         fmt::format(
             "one or more of: {}", fmt::join(train::dpo_loss_types(), ", ")))
      ->check(CLI::IsMember(train::dpo_loss_types()))
      ->type_name("TEXT")
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--loss_weights",
         config.loss_weights,
         "of the losses, each 1 by default")
      ->group(kDpo);
  app.add_option(
         "--reference",
         config.reference,
         "what the policy is compared with: the base model, or the adapter as "
         "it is at the start. auto: the initial adapter if it changes "
         "anything, else the base")
      ->check(CLI::IsMember({"auto", "base", "initial_adapter"}))
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--max_length",
         max_length,
         "tokens of prompt and completion together; 0: never cut")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group(kDpo);
  app.add_option(
         "--truncation_mode",
         config.truncation_mode,
         "which tokens of a row that is too long stay")
      ->check(CLI::IsMember({"keep_start", "keep_end"}))
      ->capture_default_str()
      ->group(kDpo);
  app.add_flag(
         "--disable_dropout,!--no_disable_dropout",
         config.disable_dropout,
         "no dropout, --lora_dropout included (on by default)")
      ->default_str("true")
      ->group(kDpo);
  add_training_options(app, config);
  app.add_option(
         "--dump_gradients_step",
         dump_gradients_step,
         "write the gradients of this step, before clipping, to "
         "grads_stepN.safetensors; 0: of none")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str()
      ->group("Advanced");
}

void DpoOptions::resolve() {
  config.output_dir = output.output_dir;
  config.max_length = max_length > 0 ? std::optional(max_length) : std::nullopt;
  config.validate();
}

train::PreferenceTokenSet tokenized(
    const std::string& file,
    const Tokenizer& tokenizer,
    const train::DpoConfig& config) {
  if (file.empty()) {
    return {};
  }
  const gemma4::ChatFormat chat_format;
  train::PreferenceTokenSet set = train::tokenize_preferences(
      train::load_preference_dataset(file), tokenizer, config, &chat_format);
  const train::PreferenceStatistics& statistics = set.statistics;
  fmt::print(
      "{}: {} examples, {} dropped (the prompt alone is too long), {} "
      "truncated, {} tokens, longest row {}\n",
      file,
      statistics.num_examples,
      statistics.num_dropped,
      statistics.num_truncated,
      statistics.num_tokens,
      statistics.longest_row);
  return set;
}

gemma4::Gemma4ForCausalLM load_model(const ModelOptions& options) {
  gemma4::Gemma4ForCausalLM model = gemma4::from_pretrained(
      options.model_name_or_path, {.dtype = options.storage_dtype()});
  const std::vector<std::string> aside = left_aside(*model);
  fmt::print(
      "model: {} ({}), weights in {}\n",
      options.model_name_or_path,
      model->architecture(),
      toString(model->lm_head().weight.scalar_type()));
  if (!aside.empty()) {
    fmt::print(
        "left aside, as text does not reach it: {}\n", fmt::join(aside, ", "));
  }
  return model;
}

void say_what_is_trained(
    const PeftModel& peft_model,
    const train::DpoTrainer& trainer) {
  fmt::print(
      "adapter on {} modules\n{}\n",
      peft_model.layers().size(),
      peft_model.trainable_parameters_line());
  fmt::print(
      "reference: {}\n",
      trainer.reference() == "base"
          ? "the base model (adapters disabled)"
          : "a frozen copy of the adapter as it is now");
}

void say_held_out(
    const std::vector<train::LogRecord>& evaluations,
    int64_t last_step) {
  const auto say = [](const char* when, const train::LogRecord& record) {
    const double margin = record.at("eval_rewards/margins");
    fmt::print(
        "held out, {} accuracy {:.4f}, margin {:.4f}, loss {:.4f}{}\n",
        when,
        record.at("eval_rewards/accuracies"),
        margin,
        record.at("eval_loss"),
        margin == 0 ? " (the policy is the reference: all are ties)" : "");
  };
  if (!evaluations.empty() && evaluations.front().step == 0) {
    say("before:", evaluations.front());
  }
  if (!evaluations.empty() && evaluations.back().step == last_step) {
    say("after: ", evaluations.back());
  }
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
  fmt::print(
      "merged model, in the checkpoint's dtype: {}\nreloaded, its logits "
      "differ from the adapted model's "
      "by at most {:.3g} (the adapter changes them by up to {:.3g}; {} "
      "positions of {} data)\n",
      destination.path().string(),
      report.largest_difference,
      report.largest_effect,
      report.num_positions,
      held_out.empty() ? "training" : "held-out");
}

std::unique_ptr<OutputDir> merged_output(const DpoOptions& options) {
  if (options.output.merged_output_dir.empty()) {
    return nullptr;
  }
  const fs::path merged =
      fs::weakly_canonical(options.output.merged_output_dir);
  TORCH_CHECK_VALUE(
      merged != fs::weakly_canonical(options.output.output_dir) &&
          merged != fs::weakly_canonical(options.model.model_name_or_path),
      "--merged_output_dir must be a folder of its own, found that of "
      "--output_dir or --model_name_or_path: ",
      merged.string());
  return std::make_unique<OutputDir>(
      merged, "--merged_output_dir", options.output.overwrite_output_dir);
}

void say_how_to_go_on(
    const fs::path& output_dir,
    int64_t step,
    const std::string& reference) {
  if (step == 0) {
    fmt::print("interrupted before the first step; nothing was saved\n");
    return;
  }
  fmt::print(
      "interrupted after step {}; a new run, with a new schedule and order, "
      "continues from the weights with another --output_dir and "
      "--adapter_name_or_path {} {}\n",
      step,
      (output_dir / fmt::format("checkpoint-{}", step)).string(),
      reference == "base" ? "--reference base"
                          : "(compared with these weights, not with those this "
                            "run began with)");
}

int train(const DpoOptions& options, const std::string& arguments) {
  const train::DpoConfig& config = options.config;
  const LoraConfig lora_config = options.lora.config();
  if (options.model.torch_num_threads > 0) {
    at::set_num_threads(options.model.torch_num_threads);
  }
  TORCHLORA_CHECK_DATA(
      fs::is_directory(options.model.model_name_or_path),
      "--model_name_or_path: there is no folder ",
      options.model.model_name_or_path,
      "; the name of a model on the hub is not downloaded, give the folder of "
      "its files");
  const OutputDir output(
      config.output_dir, "--output_dir", options.output.overwrite_output_dir);
  const std::unique_ptr<OutputDir> merged = merged_output(options);

  const auto tokenizer =
      Tokenizer::from_pretrained(options.model.model_name_or_path);
  // No result depends on padding, so any token will do.
  const int64_t pad_token_id = std::max<int64_t>(tokenizer.pad_token_id(), 0);
  auto train_set = tokenized(options.data.dataset_name, tokenizer, config);
  auto eval_set = tokenized(options.data.eval_dataset_name, tokenizer, config);

  gemma4::Gemma4ForCausalLM model = load_model(options.model);
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
  auto progress = std::make_shared<Progress>(isatty(STDERR_FILENO) == 1);
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
  fmt::print("adapter: {}\n", output.path().string());
  say_held_out(watcher->evaluations(), result.global_step);
  if (stop_requested()) {
    fmt::print(
        "interrupted after the last step; the adapter is whole{}\n",
        merged ? ", the model was not merged" : "");
    return kInterrupted;
  }
  if (merged) {
    merge(*merged, model, peft_model, trainer, pad_token_id);
  }
  return 0;
}

/// Warns about LoRA flags beside an adapter that is loaded, which has its own
/// configuration.
void warn_of_ignored_flags(const CLI::App& app, const std::string& adapter) {
  std::vector<std::string> ignored;
  for (const CLI::Option* option : app.get_options()) {
    const std::string name =
        option->get_lnames().empty() ? "" : option->get_lnames().front();
    if (option->count() > 0 && option->get_group() == LoraOptions::kGroup &&
        name != "use_peft") {
      ignored.push_back("--" + name);
    }
  }
  if (!adapter.empty() && !ignored.empty()) {
    TORCH_WARN(fmt::format(
        "{}: without effect, the adapter in {} has its own configuration",
        fmt::join(ignored, ", "),
        adapter));
  }
}

} // namespace

int dpo(const std::vector<std::string>& args) {
  CLI::App app(
      "Fine-tunes a LoRA adapter of a Gemma 4 checkpoint on preference pairs "
      "(TRL's `trl dpo`).",
      "torchlora dpo");
  DpoOptions options;
  options.add_to(app);
  if (!parse_command_line(app, args, retired_flags())) {
    return 0;
  }
  options.resolve();
  warn_of_ignored_flags(app, options.model.adapter_name_or_path);
  return train(options, resolved_arguments(app).dump(2) + "\n");
}

} // namespace torchlora::cli
