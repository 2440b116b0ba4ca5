#pragma once

#include <vector>

#include "cli/command_line.h"

namespace torchlora::cli {

/// Returns the flags of `trl dpo` (TRL 1.16, transformers 5.23) and of its
/// older releases that `torchlora dpo` does not have. docs/coming_from_trl.md
/// lists them for readers.
std::vector<ForeignFlag> trl_flags();

} // namespace torchlora::cli
