#pragma once

#include <string>
#include <vector>

namespace torchlora::cli {

/// A subcommand. Takes the arguments after its name and returns the exit code,
/// or throws. Each has a file of its own.
using Command = int (*)(const std::vector<std::string>& args);

int dpo(const std::vector<std::string>& args);

} // namespace torchlora::cli
