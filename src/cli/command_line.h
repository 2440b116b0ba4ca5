#pragma once

#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

namespace torchlora::cli {

/// A flag that does not exist (any more), with the words that tell what to
/// use in its place.
struct RetiredFlag {
  std::string name;
  std::string advice;
};

/// Adds `--config FILE` to `app` and parses `args`: hyphens in the names of
/// flags and of configuration keys count as underscores, a boolean flag may be
/// followed by its value, the command line wins over the file. Returns false
/// if the user asked for help, which is printed. `c10::ValueError` for
/// anything wrong; an unknown name comes with the nearest known one.
bool parse_command_line(
    CLI::App& app,
    std::vector<std::string> args,
    const std::vector<RetiredFlag>& retired_flags);

/// Every option of `app` with its value after parsing, given or default.
nlohmann::ordered_json resolved_arguments(const CLI::App& app);

/// The candidate nearest to `name` by edit distance; empty if none is near.
std::string nearest(
    const std::string& name,
    const std::vector<std::string>& candidates);

} // namespace torchlora::cli
