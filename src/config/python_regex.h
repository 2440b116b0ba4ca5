#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace torchlora {

/// A regular expression in the syntax of Python's `re`, run by PCRE2.
/// ValueError for a pattern that Python would not compile, as PEFT compiles a
/// saved pattern later.
class PythonRegex {
 public:
  explicit PythonRegex(const std::string& pattern);

  /// `re.fullmatch`
  bool fullmatch(std::string_view subject) const;
  /// `re.match`
  bool match(std::string_view subject) const;
  /// Returns the group `name` of `re.match`; none if there is no match.
  std::optional<std::string> match_group(
      std::string_view subject,
      std::string_view name) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

} // namespace torchlora
