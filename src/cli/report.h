#pragma once

#include <torchlora/model.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/train/dpo.h>

// What `torchlora dpo` prints before and after the training.
namespace torchlora::cli {

/// Prints what is in memory of a checkpoint and how its matrices are
/// multiplied.
void say_model(gemma4::Gemma4ForCausalLM& model);

void say_data(
    const std::string& file,
    const train::PreferenceStatistics& statistics);

void say_what_is_trained(
    const PeftModel& peft_model,
    const train::DpoTrainer& trainer);

/// Prints the evaluations before the first and after the last step.
void say_held_out(
    const std::vector<train::LogRecord>& evaluations,
    int64_t last_step);

/// Prints how a run that was interrupted goes on.
void say_how_to_go_on(
    const std::filesystem::path& output_dir,
    int64_t step,
    const std::string& reference);

} // namespace torchlora::cli
