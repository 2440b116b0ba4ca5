#include "text/first_few.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace torchlora::detail {

std::string first_few(const std::vector<std::string>& names, size_t most) {
  const auto count = std::min(most, names.size());
  return fmt::format(
      "{}{}",
      fmt::join(names.data(), names.data() + count, ", "),
      names.size() > most ? ", …" : "");
}

} // namespace torchlora::detail
