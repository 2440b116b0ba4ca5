#include "cli/help_formatter.h"

#include <sstream>

namespace torchlora::cli {

std::string HelpFormatter::make_option(
    const CLI::Option* option,
    bool is_positional) const {
  constexpr size_t kWidth = 80;
  const std::string indent(6, ' ');
  std::string text = "  " + make_option_name(option, is_positional) +
      make_option_opts(option) + "\n";
  std::istringstream words(make_option_desc(option));
  std::string line;
  for (std::string word; words >> word;) {
    if (!line.empty() && line.size() + 1 + word.size() > kWidth) {
      text += line + "\n";
      line.clear();
    }
    line += (line.empty() ? indent : " ") + word;
  }
  return text + line + (line.empty() ? "" : "\n");
}

} // namespace torchlora::cli
