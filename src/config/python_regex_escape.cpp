#include "config/python_regex_escape.h"

#include <charconv>

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include "text/utf8.h"

namespace torchlora {
namespace {

constexpr std::u32string_view kDigits = U"0123456789";
constexpr std::u32string_view kOctal = U"01234567";
constexpr std::u32string_view kHex = U"0123456789abcdefABCDEF";

bool is_ascii_letter(char32_t c) {
  return (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z');
}

bool is_in(std::u32string_view set, char32_t c) {
  return set.find(c) != std::u32string_view::npos;
}

/// Returns the value of digits, at most some ten of them.
uint64_t value_of(std::u32string_view digits, int base) {
  const std::string ascii(digits.begin(), digits.end());
  uint64_t value = 0;
  std::from_chars(ascii.data(), ascii.data() + ascii.size(), value, base);
  return value;
}

RegexEscape literal(uint64_t value) {
  return {RegexEscape::kLiteral, static_cast<uint32_t>(value)};
}

/// Reads the digits of \x, \u and \U.
RegexEscape read_hex(RegexSource& source, char32_t kind) {
  const size_t count = kind == U'x' ? 2 : kind == U'u' ? 4 : 8;
  const auto digits = source.get_while(count, kHex);
  if (digits.size() != count) {
    source.refuse(
        fmt::format("incomplete escape \\{}", static_cast<char>(kind)));
  }
  const auto value = value_of(digits, 16);
  if (value > 0x10ffff) {
    source.refuse("bad escape \\U");
  }
  return literal(value);
}

RegexEscape read_octal(RegexSource& source, const std::u32string& digits) {
  const auto value = value_of(digits, 8);
  if (value > 0377) {
    source.refuse("octal escape value outside of range 0-0o377");
  }
  return literal(value);
}

/// Reads a number outside of a class: a character in octal, or a group.
RegexEscape read_number(RegexSource& source, char32_t first) {
  std::u32string digits(1, first);
  if (first == U'0') {
    return read_octal(source, digits + source.get_while(2, kOctal));
  }
  if (source.is_next_one_of(kDigits)) {
    digits += source.get();
    if (is_in(kOctal, digits[0]) && is_in(kOctal, digits[1]) &&
        source.is_next_one_of(kOctal)) {
      digits += source.get();
      return read_octal(source, digits);
    }
  }
  return {RegexEscape::kGroup, static_cast<uint32_t>(value_of(digits, 10))};
}

} // namespace

RegexSource::RegexSource(const std::string& pattern) : pattern_(pattern) {
  for (size_t i = 0; i < pattern.size();) {
    const auto length = detail::valid_utf8_length(pattern, i);
    if (length == 0) {
      index_ = text_.size();
      refuse("invalid UTF-8");
    }
    text_.push_back(detail::code_point(pattern, i, length));
    i += length;
  }
  advance();
}

void RegexSource::advance() {
  const auto rest = std::u32string_view(text_).substr(index_);
  next_ = rest.substr(0, !rest.empty() && rest[0] == U'\\' ? 2 : 1);
  index_ += next_.size();
  if (next_ == U"\\") {
    refuse("bad escape (end of pattern)");
  }
}

std::u32string_view RegexSource::get() {
  const auto token = next_;
  advance();
  return token;
}

char32_t RegexSource::get_one() {
  if (at_end()) {
    refuse("unexpected end of pattern");
  }
  return get()[0];
}

bool RegexSource::match(char32_t c) {
  const bool is_match = is_next(c);
  if (is_match) {
    advance();
  }
  return is_match;
}

std::u32string RegexSource::get_while(
    size_t count,
    std::u32string_view characters) {
  std::u32string taken;
  while (taken.size() < count && is_next_one_of(characters)) {
    taken += get();
  }
  return taken;
}

std::u32string RegexSource::get_until(char32_t terminator, const char* what) {
  std::u32string taken;
  while (!is_next(terminator)) {
    if (at_end()) {
      refuse(fmt::format(
          "missing {}", taken.empty() ? what : "the end of a name"));
    }
    taken += get();
  }
  if (taken.empty()) {
    refuse(fmt::format("missing {}", what));
  }
  advance();
  return taken;
}

void RegexSource::seek(size_t position) {
  index_ = position;
  advance();
}

void RegexSource::refuse(const std::string& why) const {
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[regex] \"{}\" is not a regular expression of Python's re: {} at "
          "position {}",
          pattern_,
          why,
          position()));
}

RegexEscape
read_escape(RegexSource& source, std::u32string_view token, bool in_class) {
  const auto c = token[1];
  if (!in_class && is_in(U"AbBZ", c)) {
    return {RegexEscape::kPlace, c};
  }
  if (is_in(U"dDsSwW", c)) {
    return {RegexEscape::kCategory, c};
  }
  constexpr std::u32string_view kNames = U"abfnrtv",
                                kValues = U"\a\b\f\n\r\t\v";
  if (is_in(kNames, c)) {
    return literal(kValues[kNames.find(c)]);
  }
  if (is_in(U"xuU", c)) {
    return read_hex(source, c);
  }
  if (is_in(kDigits, c) && !in_class) {
    return read_number(source, c);
  }
  if (is_in(kOctal, c)) {
    return read_octal(
        source, std::u32string(1, c) + source.get_while(2, kOctal));
  }
  if (c == U'N') {
    source.refuse("\\N with the name of a character is not supported");
  }
  if (is_ascii_letter(c) || is_in(kDigits, c)) {
    source.refuse(fmt::format("bad escape \\{}", static_cast<char>(c)));
  }
  return literal(c);
}

const char* category_members(uint32_t letter, bool is_ascii) {
  switch (letter) {
    case U'd':
      return is_ascii ? "0-9" : R"(\p{Nd})";
    case U'D':
      return is_ascii ? R"(\x{0}-\x{2f}\x{3a}-\x{10ffff})" : R"(\P{Nd})";
    case U'w':
      return is_ascii ? "0-9A-Za-z_" : R"(\p{L}\p{N}_)";
    case U'W':
      return is_ascii
          ? R"(\x{0}-\x{2f}\x{3a}-\x{40}\x{5b}-\x{5e}\x{60}\x{7b}-\x{10ffff})"
          : R"(\W)";
    case U's': // PCRE2's has other members than Python's
      return is_ascii
          ? R"(\x{9}-\x{d}\x{20})"
          : R"(\x{9}-\x{d}\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a})"
            R"(\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
    default:
      return is_ascii ? R"(\x{0}-\x{8}\x{e}-\x{1f}\x{21}-\x{10ffff})"
                      : R"(\x{0}-\x{8}\x{e}-\x{1b}\x{21}-\x{84}\x{86}-\x{9f})"
                        R"(\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
                        R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff})"
                        R"(\x{3001}-\x{10ffff})";
  }
}

} // namespace torchlora
