#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "config/python_regex_escape.h"

namespace torchlora {

/// Python's number for "without end".
constexpr uint64_t kMaxRepeat = 4294967295;

/// The least and the greatest number of characters that a part matches.
struct RegexWidth {
  uint64_t lo = 0, hi = 0;

  void add(const RegexWidth& next) {
    lo = std::min(lo + next.lo, kMaxRepeat - 1);
    hi = std::min(hi + next.hi, kMaxRepeat);
  }
};

/// A part of a pattern, in the syntax of PCRE2.
struct RegexPart {
  enum Kind { kPlace, kRepeat, kOther } kind;
  std::string text;
  RegexWidth width;
};

/// The flags of Python that act at some place of a pattern.
struct RegexFlags {
  bool i = false, m = false, s = false, x = false, a = false, u = false;

  bool* find(char32_t letter) {
    switch (letter) {
      case U'i':
        return &i;
      case U'm':
        return &m;
      case U's':
        return &s;
      case U'x':
        return &x;
      case U'a':
        return &a;
      case U'u':
        return &u;
      default:
        return nullptr;
    }
  }
  bool operator==(const RegexFlags&) const = default;
  /// Turns flags on and off. The flags a and u exclude each other in a group.
  void
  change(const RegexFlags& added, const RegexFlags& removed, bool is_local) {
    const bool replaces_type = is_local && (added.a || added.u);
    a = (a && !replaces_type) || added.a;
    u = (u && !replaces_type) || added.u;
    i = (i || added.i) && !removed.i;
    m = (m || added.m) && !removed.m;
    s = (s || added.s) && !removed.s;
    x = (x || added.x) && !removed.x;
  }
  /// The beginning of a group with these flags in PCRE2.
  std::string group() const {
    return std::string("(?^") + (i && !a ? "i" : "") + (m ? "m" : "") +
        (s ? "s" : "") + ":";
  }
};

/// @{
/// A character; a place such as \\b; the class behind an opening bracket.
RegexPart literal_part(char32_t c, const RegexFlags& flags);
RegexPart place_part(uint32_t letter, const RegexFlags& flags);
RegexPart class_part(RegexSource& source, const RegexFlags& flags);
/// @}

/// Reads what follows the quantifier `kind` (*, +, ? or an opening brace).
/// Returns the least and the greatest count; nothing for a brace that is a
/// character.
std::optional<std::pair<uint64_t, uint64_t>> read_repeat(
    RegexSource& source,
    char32_t kind);
/// Reads the flags of a group, of which `first` is the first. Returns false for
/// flags of the whole pattern.
bool read_flags(
    RegexSource& source,
    char32_t first,
    RegexFlags& added,
    RegexFlags& removed);

} // namespace torchlora
