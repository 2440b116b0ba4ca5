#pragma once

#include <algorithm>
#include <string>
#include <vector>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns whether `name` is one of `names`.
inline bool contains(
    const std::vector<std::string>& names,
    const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Returns the elements of `names` for which `is_wanted(name)` holds, in order
/// and without repetitions.
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
