#include "cli/report.h"

#include <fmt/ranges.h>

#include <torchlora/nn/compute.h>

#include "cli/adapt.h"
#include "cli/terminal.h"

namespace torchlora::cli {
namespace {

void say_evaluation(const char* when, const train::LogRecord& record) {
  const double margin = record.at("eval_rewards/margins");
  say(fmt::format(
      "held out, {} accuracy {:.4f}, margin {:.4f}, loss {:.4f}{}",
      when,
      record.at("eval_rewards/accuracies"),
      margin,
      record.at("eval_loss"),
      margin == 0 ? " (the policy is the reference: all are ties)" : ""));
}

} // namespace

void say_model(gemma4::Gemma4ForCausalLM& model) {
  const at::ScalarType dtype = model->lm_head().weight.scalar_type();
  const bool native = nn::compute_route(dtype) == nn::ComputeRoute::kNative;
  say(fmt::format(
      "model: {} ({}), weights in {}{}",
      model->name_or_path(),
      model->architecture(),
      toString(dtype),
      !at::isReducedFloatingType(dtype) ? ""
          : native ? ", products by the processor's instructions for it"
                   : ", products in float32, a block of the weight at a time"));
  const std::vector<std::string> aside = left_aside(*model);
  if (!aside.empty()) {
    say(fmt::format(
        "left aside, as text does not reach it: {}", fmt::join(aside, ", ")));
  }
}

void say_data(
    const std::string& file,
    const train::PreferenceStatistics& statistics) {
  say(fmt::format(
      "{}: {} examples, {} dropped (the prompt alone is too long), {} "
      "truncated, {} tokens, longest row {}",
      file,
      statistics.num_examples,
      statistics.num_dropped,
      statistics.num_truncated,
      statistics.num_tokens,
      statistics.longest_row));
}

void say_what_is_trained(
    const PeftModel& peft_model,
    const train::DpoTrainer& trainer) {
  say(fmt::format(
      "adapter on {} modules\n{}",
      peft_model.layers().size(),
      peft_model.trainable_parameters_line()));
  say(fmt::format(
      "reference: {}",
      trainer.reference() == "base"
          ? "the base model (adapters disabled)"
          : "a frozen copy of the adapter as it is now"));
}

void say_held_out(
    const std::vector<train::LogRecord>& evaluations,
    int64_t last_step) {
  if (!evaluations.empty() && evaluations.front().step == 0) {
    say_evaluation("before:", evaluations.front());
  }
  if (!evaluations.empty() && evaluations.back().step == last_step) {
    say_evaluation("after: ", evaluations.back());
  }
}

void say_how_to_go_on(
    const std::filesystem::path& output_dir,
    int64_t step,
    const std::string& reference) {
  if (step == 0) {
    say("interrupted before the first step; nothing was saved");
    return;
  }
  say(fmt::format(
      "interrupted after step {}; a new run, with a new schedule and order, "
      "continues from the weights with another --output_dir and "
      "--adapter_name_or_path {} {}",
      step,
      (output_dir / fmt::format("checkpoint-{}", step)).string(),
      reference == "base" ? "--reference base"
                          : "(compared with these weights, not with those this "
                            "run began with)"));
}

} // namespace torchlora::cli
