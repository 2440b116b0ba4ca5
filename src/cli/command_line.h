#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace torchlora::cli {

/// A flag that other programs or older releases have and this one has not.
struct ForeignFlag {
  std::string name;
  /// Why it does not exist, or what to use instead.
  std::string advice;
  /// Whether the result of a run is the same without it: a warning is enough.
  bool is_harmless = false;
  /// Values that ask for what happens anyway, which are accepted.
  std::vector<std::string> neutral_values;
};

/// Adds `--config FILE` to `app` and parses `args`. Hyphens in the names of
/// flags and configuration keys count as underscores, a boolean flag may have a
/// value, and the command line overrides the file. Returns false if the user
/// asked for help, which is printed.
///
/// ValueError for anything wrong. Names that do not exist are listed all at
/// once, with the advice of `foreign_flags` or the nearest known name; harmless
/// ones are a warning. A number must be finite and fit its type.
bool parse_command_line(
    CLI::App& app,
    std::vector<std::string> args,
    const std::vector<ForeignFlag>& foreign_flags);

/// Returns every option of `app` with its value, given or default.
nlohmann::ordered_json resolved_arguments(const CLI::App& app);

} // namespace torchlora::cli
