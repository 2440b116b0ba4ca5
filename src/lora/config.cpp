#include <torchlora/lora/config.h>

#include <algorithm>
#include <cctype>

namespace torchlora {

bool ModuleNames::is_all_linear() const {
  if (!is_regex()) {
    return false;
  }
  std::string lower = regex();
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  return lower == "all-linear";
}

} // namespace torchlora
