#include "config/python_regex_parser.h"

#include <algorithm>
#include <optional>
#include <vector>

#include <fmt/format.h>

#include "config/python_regex_escape.h"
#include "config/python_regex_part.h"

// This is the parser of Python 3.11's re (re/_parser.py), which writes the
// pattern again for PCRE2 while it reads. All that the two understand
// differently is written in a form that means the same in both: characters by
// number, groups by number, flags as `(?^ims:…)`, verbose patterns without
// their blanks. The parser also computes how many characters each part can
// match, as Python refuses a look-behind of variable width.

namespace torchlora {
namespace {

constexpr int kMaxDepth = 100;

bool is_identifier(const std::u32string& name) {
  const auto is_letter = [](char32_t c) {
    return c == U'_' || c >= 0x80 || (c >= U'a' && c <= U'z') ||
        (c >= U'A' && c <= U'Z');
  };
  return !name.empty() && is_letter(name[0]) &&
      std::ranges::all_of(name, [&](char32_t c) {
        return is_letter(c) || (c >= U'0' && c <= U'9');
      });
}

class Parser {
 public:
  explicit Parser(const std::string& pattern) : source_(pattern) {}

  TranslatedRegex run() {
    const auto whole = alternation(/*depth=*/0);
    if (!source_.at_end()) {
      source_.refuse("unbalanced parenthesis");
    }
    for (const auto group : conditions_) {
      if (group >= widths_.size()) {
        source_.refuse(fmt::format("invalid group reference {}", group));
      }
    }
    if (flags_.a && flags_.u) {
      source_.refuse("ASCII and UNICODE flags are incompatible");
    }
    return {flags_.group() + whole.text + ")", std::move(names_)};
  }

 private:
  RegexPart alternation(int depth);
  RegexPart sequence(int depth, bool is_first);
  void
  open_parenthesis(std::vector<RegexPart>& parts, int depth, bool is_first);
  void look_around(
      std::vector<RegexPart>& parts,
      char32_t kind,
      bool is_behind,
      int depth);
  void python_extension(std::vector<RegexPart>& parts, int depth);
  void condition(std::vector<RegexPart>& parts, int depth);
  void group(
      std::vector<RegexPart>& parts,
      const std::string& opening,
      std::optional<uint32_t> number,
      int depth);
  bool repeat(std::vector<RegexPart>& parts, char32_t kind);
  RegexPart escape(std::u32string_view token);
  RegexPart reference(uint32_t group);
  uint32_t open_group();
  std::u32string read_name(char32_t terminator);
  uint32_t find_name(const std::u32string& name) const;
  void check_reference(uint64_t group) const;
  void close(const char* what = "missing ), unterminated subpattern") {
    if (!source_.match(U')')) {
      source_.refuse(what);
    }
  }
  RegexSource source_;
  RegexFlags flags_;
  /// The width of each group; none while the group is open. Group 0 is the
  /// whole pattern.
  std::vector<std::optional<RegexWidth>> widths_{std::nullopt};
  std::map<std::u32string, uint32_t> names_;
  std::vector<uint64_t> conditions_;
  /// The number of groups where the outermost look-behind began.
  std::optional<size_t> look_behind_;
};

RegexPart Parser::alternation(int depth) {
  auto result = sequence(depth, /*is_first=*/depth == 0);
  while (source_.match(U'|')) {
    const auto next = sequence(depth, /*is_first=*/false);
    result.text += "|" + next.text;
    result.width.lo = std::min(result.width.lo, next.width.lo);
    result.width.hi = std::max(result.width.hi, next.width.hi);
  }
  return result;
}

RegexPart Parser::sequence(int depth, bool is_first) {
  if (depth > kMaxDepth) {
    source_.refuse("groups are nested too deeply");
  }
  std::vector<RegexPart> parts;
  while (!source_.at_end() && !source_.is_next_one_of(U"|)")) {
    const auto token = source_.get();
    const auto c = token[0];
    if (flags_.x &&
        std::u32string_view(U" \t\n\r\v\f").find(c) !=
            std::u32string_view::npos) {
      continue;
    }
    if (flags_.x && c == U'#') {
      while (!source_.at_end() && source_.get() != U"\n") {
      }
    } else if (token.size() == 2) {
      parts.push_back(escape(token));
    } else if (c == U'[') {
      parts.push_back(class_part(source_, flags_));
    } else if (c == U'(') {
      open_parenthesis(parts, depth, is_first);
    } else if (c == U'.') {
      parts.push_back({RegexPart::kOther, ".", {1, 1}});
    } else if (c == U'^' || c == U'$') {
      parts.push_back({RegexPart::kPlace, c == U'^' ? "^" : "$", {}});
    } else if (
        std::u32string_view(U"*+?{").find(c) == std::u32string_view::npos ||
        !repeat(parts, c)) {
      parts.push_back(literal_part(c, flags_));
    }
  }
  RegexPart whole{RegexPart::kOther, "", {}};
  for (const auto& part : parts) {
    whole.text += part.text;
    whole.width.add(part.width);
  }
  return whole;
}

void Parser::check_reference(uint64_t group) const {
  if (group >= widths_.size()) {
    source_.refuse(fmt::format("invalid group reference {}", group));
  }
  if (!widths_[group]) {
    source_.refuse("cannot refer to an open group");
  }
  if (look_behind_ && group >= *look_behind_) {
    source_.refuse(
        "cannot refer to group defined in the same lookbehind subpattern");
  }
}

RegexPart Parser::reference(uint32_t group) {
  check_reference(group);
  return {RegexPart::kOther, fmt::format("\\g{{{}}}", group), *widths_[group]};
}

RegexPart Parser::escape(std::u32string_view token) {
  const auto escape = read_escape(source_, token, /*in_class=*/false);
  switch (escape.kind) {
    case RegexEscape::kPlace:
      return place_part(escape.value, flags_);
    case RegexEscape::kCategory:
      return {
          RegexPart::kOther,
          fmt::format("[{}]", category_members(escape.value, flags_.a)),
          {1, 1}};
    case RegexEscape::kGroup:
      return reference(escape.value);
    default:
      return literal_part(escape.value, flags_);
  }
}

bool Parser::repeat(std::vector<RegexPart>& parts, char32_t kind) {
  const auto count = read_repeat(source_, kind);
  if (!count) {
    return false;
  }
  const auto [min, max] = *count;
  if (parts.empty() || parts.back().kind == RegexPart::kPlace) {
    source_.refuse("nothing to repeat");
  }
  auto& part = parts.back();
  if (part.kind == RegexPart::kRepeat) {
    source_.refuse("multiple repeat");
  }
  const char* mode = source_.match(U'?') ? "?" : source_.match(U'+') ? "+" : "";
  part.kind = RegexPart::kRepeat;
  part.text = fmt::format(
      "(?:{}){{{},{}}}{}",
      part.text,
      min,
      max == kMaxRepeat ? "" : std::to_string(max),
      mode);
  part.width.lo = std::min(part.width.lo * min, kMaxRepeat - 1);
  part.width.hi = std::min(part.width.hi * max, kMaxRepeat);
  return true;
}

uint32_t Parser::open_group() {
  widths_.emplace_back();
  return static_cast<uint32_t>(widths_.size() - 1);
}

std::u32string Parser::read_name(char32_t terminator) {
  auto name = source_.get_until(terminator, "group name");
  if (!is_identifier(name)) {
    source_.refuse("bad character in group name");
  }
  return name;
}

uint32_t Parser::find_name(const std::u32string& name) const {
  const auto found = names_.find(name);
  if (found == names_.end()) {
    source_.refuse("unknown group name");
  }
  return found->second;
}

void Parser::group(
    std::vector<RegexPart>& parts,
    const std::string& opening,
    std::optional<uint32_t> number,
    int depth) {
  const auto body = alternation(depth + 1);
  close();
  if (number) {
    widths_[*number] = body.width;
  }
  parts.push_back({RegexPart::kOther, opening + body.text + ")", body.width});
}

void Parser::look_around(
    std::vector<RegexPart>& parts,
    char32_t kind,
    bool is_behind,
    int depth) {
  const auto outer = look_behind_;
  if (is_behind && !look_behind_) {
    look_behind_ = widths_.size();
  }
  const auto body = alternation(depth + 1);
  look_behind_ = outer;
  close();
  if (is_behind && body.width.lo != body.width.hi) {
    source_.refuse("look-behind requires fixed-width pattern");
  }
  parts.push_back(
      {RegexPart::kOther,
       std::string(is_behind ? "(?<" : "(?") + static_cast<char>(kind) +
           body.text + ")",
       {}});
}

void Parser::condition(std::vector<RegexPart>& parts, int depth) {
  const auto name = source_.get_until(U')', "group name");
  uint64_t group = 0;
  if (is_identifier(name)) {
    group = find_name(name);
  } else {
    for (const auto digit : name) {
      if (digit < U'0' || digit > U'9') {
        source_.refuse("bad character in group name");
      }
      group = std::min(10 * group + (digit - U'0'), kMaxRepeat);
    }
    if (group == 0) {
      source_.refuse("bad group number");
    }
    conditions_.push_back(group);
  }
  if (look_behind_) {
    check_reference(group);
  }
  auto part = sequence(depth + 1, /*is_first=*/false);
  part.text = fmt::format("(?({}){}", group, part.text);
  if (source_.match(U'|')) {
    const auto otherwise = sequence(depth + 1, /*is_first=*/false);
    if (source_.is_next(U'|')) {
      source_.refuse("conditional backref with more than two branches");
    }
    part.text += "|" + otherwise.text;
    part.width.lo = std::min(part.width.lo, otherwise.width.lo);
    part.width.hi = std::max(part.width.hi, otherwise.width.hi);
  } else {
    part.width.lo = 0;
  }
  close();
  part.text += ")";
  parts.push_back(std::move(part));
}

void Parser::python_extension(std::vector<RegexPart>& parts, int depth) {
  if (source_.match(U'<')) {
    const auto name = read_name(U'>');
    const auto number = open_group();
    if (!names_.emplace(name, number).second) {
      source_.refuse("redefinition of group name");
    }
    group(parts, "(", number, depth);
  } else if (source_.match(U'=')) {
    parts.push_back(reference(find_name(read_name(U')'))));
  } else {
    source_.refuse("unknown extension ?P");
  }
}

void Parser::open_parenthesis(
    std::vector<RegexPart>& parts,
    int depth,
    bool is_first) {
  if (!source_.match(U'?')) {
    group(parts, "(", open_group(), depth);
    return;
  }
  const auto kind = source_.get_one();
  switch (kind) {
    case U'P':
      python_extension(parts, depth);
      return;
    case U':':
    case U'>':
      group(parts, kind == U':' ? "(?:" : "(?>", std::nullopt, depth);
      return;
    case U'#':
      while (!source_.match(U')')) {
        if (source_.at_end()) {
          source_.refuse("missing ), unterminated comment");
        }
        source_.get();
      }
      return;
    case U'=':
    case U'!':
      look_around(parts, kind, /*is_behind=*/false, depth);
      return;
    case U'<': {
      const auto after = source_.get_one();
      if (after != U'=' && after != U'!') {
        source_.refuse("unknown extension ?<");
      }
      look_around(parts, after, /*is_behind=*/true, depth);
      return;
    }
    case U'(':
      condition(parts, depth);
      return;
    default:
      break;
  }
  if (std::u32string_view(U"-iLmsxatu").find(kind) ==
      std::u32string_view::npos) {
    source_.refuse("unknown extension");
  }
  RegexFlags added, removed;
  const bool is_local = read_flags(source_, kind, added, removed);
  if (!is_local && (!is_first || !parts.empty())) {
    source_.refuse("global flags not at the start of the expression");
  }
  const auto outer = flags_;
  flags_.change(added, removed, is_local);
  if (is_local) {
    group(parts, flags_.group(), std::nullopt, depth);
    flags_ = outer;
  }
}

} // namespace

TranslatedRegex translate_python_regex(const std::string& pattern) {
  return Parser(pattern).run();
}

} // namespace torchlora
