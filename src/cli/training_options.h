#pragma once

#include <CLI/CLI.hpp>

#include <torchlora/train/arguments.h>

namespace torchlora::cli {

/// Adds a flag per field of `args`, except `output_dir`, which is in
/// `OutputOptions`.
void add_training_options(CLI::App& app, train::TrainingArguments& args);

} // namespace torchlora::cli
