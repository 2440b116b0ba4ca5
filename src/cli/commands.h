#pragma once

#include <string>
#include <vector>

namespace torchlora::cli {

/// A subcommand: runs with the arguments behind its name and returns the exit
/// code, or throws.
using Command = int (*)(const std::vector<std::string>& args);

int dpo(const std::vector<std::string>& args);

} // namespace torchlora::cli
