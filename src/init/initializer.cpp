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
  bool ignore_case = false;
  /// A number follows the name.
  bool has_number = false;
};

constexpr std::array kInitializers{
    Entry{"gaussian", gaussian_init, /*ignore_case=*/true},
    Entry{"mica", mica_init, /*ignore_case=*/true},
    Entry{"olora", olora_init, /*ignore_case=*/true},
    Entry{"orthogonal", orthogonal_init},
    Entry{"pissa", pissa_init},
    Entry{"pissa_niter_", pissa_niter_init, false, /*has_number=*/true},
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
    const auto name = entry.ignore_case ? to_lower(value.name()) : value.name();
    if (entry.has_number ? name.starts_with(entry.name) : name == entry.name) {
      return entry.initializer;
    }
  }
  std::vector<std::string> known;
  for (const auto& entry : kInitializers) {
    known.push_back(
        fmt::format("\"{}{}\"", entry.name, entry.has_number ? "N" : ""));
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
