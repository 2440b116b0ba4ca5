#include "tokenizer/unicode.h"

#include <algorithm>

namespace torchlora::detail {

namespace {

unsigned char byte_at(std::string_view text, size_t position) {
  return static_cast<unsigned char>(text[position]);
}

/// Returns the code point of the character of `length` bytes at `position`.
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

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 ||
      c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
      c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Returns the length of the character at `position`, or 0 if the bytes there
/// are not valid UTF-8.
size_t valid_length(std::string_view text, size_t position) {
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

} // namespace

size_t utf8_length(std::string_view text, size_t position) {
  const auto length = valid_length(text, position);
  return length == 0 ? 1 : length;
}

bool is_valid_utf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto length = valid_length(text, i);
    if (length == 0) {
      return false;
    }
    i += length;
  }
  return true;
}

std::string_view strip(std::string_view text) {
  size_t begin = text.size(), end = 0;
  for (size_t i = 0; i < text.size();) {
    const auto length = utf8_length(text, i);
    if (!is_space(code_point(text, i, length))) {
      begin = std::min(begin, i);
      end = i + length;
    }
    i += length;
  }
  return begin < end ? text.substr(begin, end - begin) : std::string_view();
}

std::string
replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  result.reserve(text.size());
  size_t begin = 0;
  for (auto found = text.find(from); found != std::string_view::npos;
       found = text.find(from, begin)) {
    result.append(text, begin, found - begin).append(to);
    begin = found + from.size();
  }
  return result.append(text.substr(begin));
}

} // namespace torchlora::detail
