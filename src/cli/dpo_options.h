#pragma once

#include <torchlora/train/dpo.h>

#include "cli/options.h"

namespace torchlora::cli {

/// All flags of `torchlora dpo`.
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

} // namespace torchlora::cli
