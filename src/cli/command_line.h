#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace torchlora::cli {

/// A flag that other programs or older releases have. `advice` says what to use
/// instead.
struct RetiredFlag {
  std::string name;
  std::string advice;
};

/// Adds `--config FILE` to `app` and parses `args`. Hyphens in the names of
/// flags and configuration keys count as underscores, a boolean flag may have a
/// value, and the command line overrides the file. Returns false if the user
/// asked for help, which is printed. ValueError for anything wrong; for an
/// unknown name it suggests the nearest known one.
bool parse_command_line(
    CLI::App& app,
    std::vector<std::string> args,
    const std::vector<RetiredFlag>& retired_flags);

/// Returns every option of `app` with its value, given or default.
nlohmann::ordered_json resolved_arguments(const CLI::App& app);

/// Returns the candidate nearest to `name` by edit distance, or "" if none is
/// near.
std::string nearest(
    const std::string& name,
    const std::vector<std::string>& candidates);

} // namespace torchlora::cli
