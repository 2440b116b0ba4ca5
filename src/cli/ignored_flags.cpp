#include "cli/ignored_flags.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "cli/options.h"

namespace torchlora::cli {
namespace {

/// Reads what was given to an application.
class Given {
 public:
  explicit Given(const CLI::App& app) : app_(app) {}

  bool has(const char* flag) const {
    return app_.get_option(flag)->count() > 0;
  }
  std::string value(const char* flag) const {
    const CLI::Option* option = app_.get_option(flag);
    return option->count() > 0 ? option->results().front()
                               : option->get_default_str();
  }
  /// Returns those of `flags` that were given.
  std::vector<std::string> of(const std::vector<const char*>& flags) const {
    std::vector<std::string> given;
    for (const char* flag : flags) {
      if (has(flag)) {
        given.emplace_back(flag);
      }
    }
    return given;
  }

 private:
  const CLI::App& app_;
};

void warn(const std::vector<std::string>& flags, const std::string& reason) {
  if (!flags.empty()) {
    TORCH_WARN(
        fmt::format("{}: without effect, {}", fmt::join(flags, ", "), reason));
  }
}

std::vector<std::string> lora_flags(const CLI::App& app) {
  std::vector<std::string> given;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0 && option->get_group() == LoraOptions::kGroup &&
        !option->check_lname("use_peft")) {
      given.push_back("--" + option->get_lnames().front());
    }
  }
  return given;
}

void check_evaluation(const CLI::App& app, const Given& given) {
  if (given.has("--eval_dataset_name")) {
    return;
  }
  std::vector<std::string> asked;
  if (given.value("--eval_strategy") != "no") {
    asked = given.of({"--eval_strategy"});
  }
  if (given.has("--eval_on_start") &&
      app.get_option("--eval_on_start")->as<bool>()) {
    asked.emplace_back("--eval_on_start");
  }
  TORCH_CHECK_VALUE(
      asked.empty(),
      fmt::format(
          "{}: there is no evaluation data; give it by --eval_dataset_name, or "
          "leave out what asks for evaluation",
          fmt::join(asked, ", ")));
  warn(
      given.of({"--eval_steps", "--per_device_eval_batch_size"}),
      "there is no evaluation data (--eval_dataset_name)");
}

} // namespace

void check_flags_have_effect(const CLI::App& app) {
  const Given given(app);
  check_evaluation(app, given);
  if (given.has("--adapter_name_or_path")) {
    warn(
        lora_flags(app),
        "the adapter in " + given.value("--adapter_name_or_path") +
            " has its own configuration");
  }
  if (given.value("--eval_strategy") != "steps") {
    warn(given.of({"--eval_steps"}), "--eval_strategy is not steps");
  }
  if (given.value("--save_strategy") != "steps") {
    warn(given.of({"--save_steps"}), "--save_strategy is not steps");
  }
  if (given.value("--lr_scheduler_type") == "constant") {
    warn(
        given.of({"--warmup_steps"}),
        "the schedule constant has no warmup; constant_with_warmup has");
  }
  if (given.value("--max_length") == "0") {
    warn(given.of({"--truncation_mode"}), "--max_length 0 cuts no row");
  }
  if (app.get_option("--max_steps")->as<int64_t>() > 0) {
    warn(given.of({"--num_train_epochs"}), "--max_steps overrides it");
  }
}

} // namespace torchlora::cli
