#pragma once

#include <map>
#include <string>

namespace torchlora {

/// A pattern of Python's `re` in the syntax of PCRE2.
struct TranslatedRegex {
  std::string pattern;
  /// The numbers of named groups.
  std::map<std::u32string, uint32_t> groups;
};

/// Translates a pattern as Python 3.11 reads it. ValueError for one that Python
/// does not compile, and for what PCRE2 cannot express: \N{NAME}, the flag t,
/// repetitions above 65535 and groups nested more than 100 levels deep.
TranslatedRegex translate_python_regex(const std::string& pattern);

} // namespace torchlora
