#pragma once

#include <CLI/CLI.hpp>

namespace torchlora::cli {

/// Prints the help of a command in lines of at most 80 columns that end between
/// words: each flag on a line of its own, its description indented below.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_option(const CLI::Option* option, bool is_positional)
      const override;
};

} // namespace torchlora::cli
