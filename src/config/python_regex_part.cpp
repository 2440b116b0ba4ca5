#include "config/python_regex_part.h"

#include <fmt/format.h>

namespace torchlora {
namespace {

constexpr uint64_t kPcreMaxRepeat = 65535;

std::string number(char32_t c) {
  return fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(c));
}

bool is_surrogate(char32_t c) {
  return c >= 0xd800 && c < 0xe000;
}

} // namespace

RegexPart literal_part(char32_t c, const RegexFlags& flags) {
  const bool is_letter = (c >= U'a' && c <= U'z') || (c >= U'A' && c <= U'Z');
  if (is_surrogate(c)) { // no text has one
    return {RegexPart::kOther, "(?!)", {1, 1}};
  }
  if (is_letter && flags.i && flags.a) {
    return {
        RegexPart::kOther, "[" + number(c) + number(c ^ 0x20) + "]", {1, 1}};
  }
  return {RegexPart::kOther, number(c), {1, 1}};
}

RegexPart place_part(uint32_t letter, const RegexFlags& flags) {
  const std::string word = flags.a ? "[0-9A-Za-z_]" : R"([\p{L}\p{N}_])";
  const auto boundary =
      fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word);
  return {
      RegexPart::kPlace,
      letter == U'A'       ? "\\A"
          : letter == U'Z' ? "\\z"
          : letter == U'b' ? boundary
                           : "(?!\\A\\z)(?!" + boundary + ")",
      {}};
}

RegexPart class_part(RegexSource& source, const RegexFlags& flags) {
  std::string members;
  const auto add = [&](char32_t lo, char32_t hi) {
    lo = is_surrogate(lo) ? 0xe000 : lo;
    hi = is_surrogate(hi) ? 0xd7ff : hi;
    if (lo <= hi) {
      members += number(lo) + "-" + number(hi);
    }
  };
  const auto add_range = [&](char32_t lo, char32_t hi) {
    add(lo, hi);
    for (const auto& [first, last] : {std::pair{U'a', U'z'}, {U'A', U'Z'}}) {
      const auto begin = std::max(lo, first), end = std::min(hi, last);
      if (flags.i && flags.a && begin <= end) {
        add(begin ^ 0x20, end ^ 0x20);
      }
    }
  };
  const auto read_member = [&](std::u32string_view token) {
    if (token.empty()) {
      source.refuse("unterminated character set");
    }
    return token.size() == 2 ? read_escape(source, token, /*in_class=*/true)
                             : RegexEscape{RegexEscape::kLiteral, token[0]};
  };
  const auto add_member = [&](const RegexEscape& member) {
    if (member.kind == RegexEscape::kCategory) {
      members += category_members(member.value, flags.a);
    } else {
      add_range(member.value, member.value);
    }
  };
  const bool is_negated = source.match(U'^');
  for (bool is_first = true;; is_first = false) {
    if (!is_first && source.match(U']')) {
      break;
    }
    const auto member = read_member(source.get());
    if (!source.match(U'-')) {
      add_member(member);
      continue;
    }
    if (source.match(U']')) {
      add_member(member);
      add_range(U'-', U'-');
      break;
    }
    const auto last = read_member(source.get());
    if (member.kind != RegexEscape::kLiteral ||
        last.kind != RegexEscape::kLiteral || last.value < member.value) {
      source.refuse("bad character range");
    }
    add_range(member.value, last.value);
  }
  if (members.empty()) { // surrogates only
    return {RegexPart::kOther, is_negated ? "(?s:.)" : "(?!)", {1, 1}};
  }
  return {RegexPart::kOther, (is_negated ? "[^" : "[") + members + "]", {1, 1}};
}

std::optional<std::pair<uint64_t, uint64_t>> read_repeat(
    RegexSource& source,
    char32_t kind) {
  uint64_t min = kind == U'+' ? 1 : 0;
  uint64_t max = kind == U'?' ? 1 : kMaxRepeat;
  if (kind == U'{') {
    const auto here = source.position();
    if (source.is_next(U'}')) {
      return std::nullopt;
    }
    const auto lo = source.get_while(SIZE_MAX, U"0123456789");
    const auto hi =
        source.match(U',') ? source.get_while(SIZE_MAX, U"0123456789") : lo;
    if (!source.match(U'}')) {
      source.seek(here);
      return std::nullopt;
    }
    const auto read = [&](const std::u32string& digits, uint64_t otherwise) {
      uint64_t value = digits.empty() ? otherwise : 0;
      for (const auto digit : digits) {
        value = std::min(10 * value + (digit - U'0'), kMaxRepeat);
        if (value > kPcreMaxRepeat) {
          source.refuse("the repetition number is too large");
        }
      }
      return value;
    };
    min = read(lo, min);
    max = read(hi, max);
    if (max < min) {
      source.refuse("min repeat greater than max repeat");
    }
  }
  return std::pair{min, max};
}

bool read_flags(
    RegexSource& source,
    char32_t first,
    RegexFlags& added,
    RegexFlags& removed) {
  const auto set = [&](RegexFlags& flags, char32_t letter) {
    auto* flag = flags.find(letter);
    if (!flag) {
      source.refuse(
          letter == U'L'       ? "cannot use 'L' flag with a str pattern"
              : letter == U't' ? "the flag t is not supported"
                               : "unknown flag");
    }
    *flag = true;
  };
  auto c = first;
  while (c != U'-' && c != U':' && c != U')') {
    set(added, c);
    c = source.get_one();
  }
  if (added.a && added.u) {
    source.refuse("flags 'a', 'u' and 'L' are incompatible");
  }
  if (c == U')') {
    return false;
  }
  if (c == U'-') {
    for (c = source.get_one(); c != U':'; c = source.get_one()) {
      set(removed, c);
    }
    if (removed == RegexFlags()) {
      source.refuse("missing flag");
    }
  }
  if (removed.a || removed.u) {
    source.refuse("cannot turn off flags 'a', 'u' and 'L'");
  }
  for (const auto letter : {U'i', U'm', U's', U'x'}) {
    if (*added.find(letter) && *removed.find(letter)) {
      source.refuse("flag turned on and off");
    }
  }
  return true;
}

} // namespace torchlora
