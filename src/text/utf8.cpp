#include "text/utf8.h"

#include <fmt/format.h>

namespace torchlora::detail {
namespace {

unsigned char byte_at(std::string_view text, size_t position) {
  return static_cast<unsigned char>(text[position]);
}

bool is_control(char32_t c) {
  return c < 0x20 || (c >= 0x7F && c < 0xA0);
}

/// The marks that change the direction of the text behind them.
bool is_direction(char32_t c) {
  return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

} // namespace

char32_t code_point(std::string_view text, size_t position, size_t length) {
  const auto first = byte_at(text, position);
  if (length == 1) {
    return first;
  }
  char32_t value = first & (0x7FU >> length);
  for (size_t i = 1; i < length; ++i) {
    value = (value << 6) | (byte_at(text, position + i) & 0x3FU);
  }
  return value;
}

size_t valid_utf8_length(std::string_view text, size_t position) {
  const auto first = byte_at(text, position);
  if (first < 0x80) {
    return 1;
  }
  const size_t length = first >= 0xF0 && first <= 0xF4 ? 4
      : first >= 0xE0 && first <= 0xEF                 ? 3
      : first >= 0xC2 && first <= 0xDF                 ? 2
                                                       : 0;
  if (length == 0 || position + length > text.size()) {
    return 0;
  }
  for (size_t i = 1; i < length; ++i) {
    if ((byte_at(text, position + i) & 0xC0U) != 0x80) {
      return 0;
    }
  }
  const auto c = code_point(text, position, length);
  const bool is_overlong = (length == 3 && c < 0x800) ||
      (length == 4 && (c < 0x10000 || c > 0x10FFFF));
  const bool is_surrogate = c >= 0xD800 && c <= 0xDFFF;
  return is_overlong || is_surrogate ? 0 : length;
}

size_t utf8_length(std::string_view text, size_t position) {
  const auto length = valid_utf8_length(text, position);
  return length == 0 ? 1 : length;
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto length = valid_utf8_length(text, i);
    if (length == 0) {
      return false;
    }
    i += length;
  }
  return true;
}

size_t num_characters(std::string_view text) {
  size_t count = 0;
  for (size_t i = 0; i < text.size(); i += utf8_length(text, i)) {
    ++count;
  }
  return count;
}

std::string_view first_characters(std::string_view text, size_t count) {
  size_t end = 0;
  for (; count > 0 && end < text.size(); --count) {
    end += utf8_length(text, end);
  }
  return text.substr(0, end);
}

std::string printable(std::string_view text, std::string_view kept) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto length = valid_utf8_length(text, i);
    if (length == 0) {
      result += fmt::format("\\x{:02x}", byte_at(text, i++));
      continue;
    }
    const auto character = text.substr(i, length);
    const auto code = static_cast<uint32_t>(code_point(text, i, length));
    i += length;
    if (is_control(code) && kept.find(character) == kept.npos) {
      result += fmt::format("\\x{:02x}", code);
    } else if (is_direction(code)) {
      result += fmt::format("\\u{:04x}", code);
    } else {
      result += character;
    }
  }
  return result;
}

} // namespace torchlora::detail
