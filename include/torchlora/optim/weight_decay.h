#pragma once

#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

namespace torchlora {

/// Returns whether transformers applies weight decay to a parameter of this
/// name: not to biases and norms, but to every LoRA factor.
inline bool has_weight_decay(std::string_view parameter_name) {
  std::string name(parameter_name);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) {
    return std::tolower(c);
  });
  for (const auto* part : {"bias", "layernorm", "rmsnorm"}) {
    if (name.find(part) != std::string::npos) {
      return false;
    }
  }
  for (size_t begin = 0; begin <= name.size();) {
    const auto end = std::min(name.find('.', begin), name.size());
    const auto component = std::string_view(name).substr(begin, end - begin);
    if (component == "norm" || component.ends_with("_norm")) {
      return false;
    }
    begin = end + 1;
  }
  return true;
}

} // namespace torchlora
