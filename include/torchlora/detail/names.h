#pragma once

#include <algorithm>
#include <string>
#include <vector>

/// Not public: for inline code of the library's own headers.
namespace torchlora::detail {

inline bool contains(
    const std::vector<std::string>& names,
    const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Returns the names that are wanted, each once.
template <class IsWanted>
std::vector<std::string> each_once(
    const std::vector<std::string>& names,
    const IsWanted& is_wanted) {
  std::vector<std::string> result;
  for (const auto& name : names) {
    if (is_wanted(name) && !contains(result, name)) {
      result.push_back(name);
    }
  }
  return result;
}

} // namespace torchlora::detail
