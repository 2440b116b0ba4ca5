#include "cli/numbers.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace torchlora::cli {
namespace {

bool is_whole(std::string_view digits) {
  return !digits.empty() &&
      std::all_of(digits.begin(), digits.end(), [](unsigned char c) {
        return std::isdigit(c);
      });
}

/// Returns what is wrong with `text` as a number of type T, or "".
template <class T>
std::string check_whole(const std::string& text) {
  const size_t sign = !text.empty() && (text[0] == '-' || text[0] == '+');
  const std::string_view digits = std::string_view(text).substr(sign);
  if (!is_whole(digits) || (digits.size() > 1 && digits[0] == '0')) {
    return "must be a whole number, found " + text;
  }
  T value{};
  const char* const begin = text.data() + (text[0] == '+');
  const auto [end, error] =
      std::from_chars(begin, text.data() + text.size(), value);
  if (error == std::errc()) {
    return end == text.data() + text.size()
        ? ""
        : "must not be negative, found " + text;
  }
  return std::is_unsigned_v<T> && text[0] == '-'
      ? "must not be negative, found " + text
      : "is a number that is too large: " + text;
}

std::string check_real(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size()) {
    return "must be a number, found " + text;
  }
  return std::isfinite(value) && errno != ERANGE
      ? ""
      : "must be a finite number, found " + text;
}

} // namespace

void check_numbers(CLI::App& app) {
  for (CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (type.starts_with("UINT")) {
      option->check(check_whole<uint64_t>, "", "number");
    } else if (type.starts_with("INT")) {
      option->check(check_whole<int64_t>, "", "number");
    } else if (type.starts_with("FLOAT")) {
      option->check(check_real, "", "number");
    }
  }
}

CLI::Validator not_negative() {
  const auto check = [](std::string& text) -> std::string {
    return text.starts_with("-") ? "must not be negative, found " + text : "";
  };
  return CLI::Validator(check, "");
}

} // namespace torchlora::cli
