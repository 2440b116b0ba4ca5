#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace torchlora {

/// The tokens of a pattern of Python's `re`: a character, or a backslash and
/// the character after it.
class RegexSource {
 public:
  /// ValueError if the pattern is not UTF-8 or ends with a backslash.
  explicit RegexSource(const std::string& pattern);

  /// The next token; empty at the end.
  std::u32string_view next() const {
    return next_;
  }
  bool is_next(char32_t c) const {
    return next_.size() == 1 && next_[0] == c;
  }
  bool is_next_one_of(std::u32string_view characters) const {
    return next_.size() == 1 && characters.find(next_[0]) != npos;
  }
  bool at_end() const {
    return next_.empty();
  }
  std::u32string_view get();
  /// Takes a token that must be there. Returns its first character.
  char32_t get_one();
  /// Takes the next token if it is `c`.
  bool match(char32_t c);
  /// Takes at most `count` tokens out of `characters`.
  std::u32string get_while(size_t count, std::u32string_view characters);
  /// Takes the tokens before `terminator`, and it.
  std::u32string get_until(char32_t terminator, const char* what);

  size_t position() const {
    return index_ - next_.size();
  }
  void seek(size_t position);
  /// Throws a ValueError with Python's word for what is wrong.
  [[noreturn]] void refuse(const std::string& why) const;

 private:
  static constexpr auto npos = std::u32string_view::npos;

  void advance();

  std::string pattern_;
  std::u32string text_;
  std::u32string_view next_;
  size_t index_ = 0;
};

/// What an escape stands for.
struct RegexEscape {
  enum Kind {
    kLiteral,  // value is the character
    kCategory, // value is its letter, such as d
    kPlace,    // value is its letter, such as b
    kGroup,    // value is the number of the group
  } kind;
  uint32_t value;
};

/// Reads the rest of the escape that begins with `token`.
RegexEscape
read_escape(RegexSource& source, std::u32string_view token, bool in_class);

/// Returns the members of a category (d, D, s, S, w or W) for a class of PCRE2.
const char* category_members(uint32_t letter, bool is_ascii);

} // namespace torchlora
