#include "text/first_few.h"

#include <algorithm>

#include <fmt/ranges.h>

namespace torchlora::detail {

std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t kMost = 8;
  const auto count = std::min(kMost, names.size());
  return fmt::format(
      "{}{}",
      fmt::join(names.data(), names.data() + count, ", "),
      names.size() > kMost ? ", …" : "");
}

} // namespace torchlora::detail
