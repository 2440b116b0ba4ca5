#include <torchlora/init/initializer.h>

#include <algorithm>
#include <array>
#include <cctype>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace torchlora::init {
namespace {

struct Entry {
  const char* name;
  Initializer initializer;
  bool ignore_case;
};

constexpr std::array kInitializers{
    Entry{"gaussian", gaussian_init, /*ignore_case=*/true},
};

std::string to_lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) {
    return static_cast<char>(std::tolower(c));
  });
  return text;
}

} // namespace

Initializer find_initializer(const InitLoraWeights& value) {
  if (!value.is_name()) {
    return value.flag() ? default_init : no_init;
  }
  for (const auto& entry : kInitializers) {
    if (entry.name ==
        (entry.ignore_case ? to_lower(value.name()) : value.name())) {
      return entry.initializer;
    }
  }
  std::vector<std::string> known;
  for (const auto& entry : kInitializers) {
    known.push_back(fmt::format("\"{}\"", entry.name));
  }
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[init_lora_weights] unknown initialization \"{}\"; it must be true, "
          "false or one of {}",
          value.name(),
          fmt::join(known, ", ")));
}

} // namespace torchlora::init
