#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace torchlora {

/// A regular expression in the syntax of Python's `re`, by PCRE2. What Python
/// would not compile is refused (ValueError), for a saved pattern is compiled
/// by Python later.
class PythonRegex {
 public:
  explicit PythonRegex(const std::string& pattern);

  /// `re.fullmatch`
  bool fullmatch(std::string_view subject) const;
  /// `re.match`
  bool match(std::string_view subject) const;
  /// Group `name` of `re.match`; nullopt without a match.
  std::optional<std::string> match_group(
      std::string_view subject,
      const char* name) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;
};

} // namespace torchlora
