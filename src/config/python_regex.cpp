#define PCRE2_CODE_UNIT_WIDTH 8

#include "config/python_regex.h"

#include <array>
#include <cctype>
#include <cstdint>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <pcre2.h>

namespace torchlora {
namespace {

[[noreturn]] void
refuse(const std::string& pattern, size_t offset, const std::string& why) {
  TORCH_CHECK_VALUE(
      false,
      fmt::format(
          "[regex] \"{}\" is not a regular expression of Python's re: {} at "
          "position {}",
          pattern,
          why,
          offset));
}

/// Rewrites what PCRE2 spells differently, and refuses what Python does not
/// know.
std::string translate(const std::string& pattern) {
  constexpr std::string_view kGroups = ":P#=!<>(aiLmsux-";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    const char next = i + 1 < pattern.size() ? pattern[i + 1] : '\0';
    if (c == '\\' && i + 1 < pattern.size()) {
      ++i;
      if (next == 'Z' && !in_class) {
        out += "\\z";
      } else if (next == 'v') {
        out += "\\x0b";
      } else if (
          std::isalpha(static_cast<unsigned char>(next)) &&
          std::string_view("AbBdDsSwWafnrtx").find(next) ==
              std::string_view::npos) {
        refuse(pattern, i - 1, fmt::format("bad escape \\{}", next));
      } else {
        out += {c, next};
      }
    } else if (in_class) {
      out += c == '[' ? "\\[" : std::string(1, c);
      in_class = c != ']';
    } else if (c == '[') {
      in_class = true;
      out += c;
      if (next == '^') {
        out += next;
        ++i;
      }
      // A bracket that comes first is a literal in both.
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') {
        out += "\\]";
        ++i;
      }
    } else if (c == '(' && next == '*') {
      refuse(pattern, i + 1, "nothing to repeat");
    } else if (c == '(' && next == '?') {
      const char kind = i + 2 < pattern.size() ? pattern[i + 2] : '\0';
      const char after = i + 3 < pattern.size() ? pattern[i + 3] : '\0';
      const bool lookbehind = after == '=' || after == '!';
      const bool named = after == '<' || after == '=';
      if (kGroups.find(kind) == std::string_view::npos ||
          (kind == '<' && !lookbehind) || (kind == 'P' && !named)) {
        refuse(pattern, i + 1, fmt::format("unknown extension ?{}", kind));
      }
      out += c;
    } else if (c == '{' && next == ',') {
      out += "{0";
    } else {
      out += c;
    }
  }
  return out;
}

} // namespace

struct PythonRegex::Code {
  explicit Code(const std::string& pattern_) : pattern(pattern_) {
    const auto translated = translate(pattern);
    auto* context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(translated.data()),
        translated.size(),
        PCRE2_UTF | PCRE2_UCP,
        &error,
        &offset,
        context);
    pcre2_compile_context_free(context);
    if (!code) {
      refuse(pattern, offset, message(error));
    }
  }
  ~Code() {
    pcre2_code_free(code);
  }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  static std::string message(int error) {
    std::array<PCRE2_UCHAR, 256> buffer{};
    pcre2_get_error_message(error, buffer.data(), buffer.size());
    return reinterpret_cast<const char*>(buffer.data());
  }

  /// The match data, nullptr without a match.
  std::shared_ptr<pcre2_match_data> run(
      std::string_view subject,
      uint32_t options) const {
    std::shared_ptr<pcre2_match_data> data(
        pcre2_match_data_create_from_pattern(code, nullptr),
        pcre2_match_data_free);
    const int result = pcre2_match(
        code,
        reinterpret_cast<PCRE2_SPTR>(subject.data()),
        subject.size(),
        /*startoffset=*/0,
        options,
        data.get(),
        nullptr);
    if (result == PCRE2_ERROR_NOMATCH) {
      return nullptr;
    }
    TORCH_CHECK_VALUE(
        result > 0,
        fmt::format(
            "[regex] matching \"{}\" against \"{}\" failed: {}",
            pattern,
            subject,
            message(result)));
    return data;
  }

  std::string pattern;
  pcre2_code* code = nullptr;
};

PythonRegex::PythonRegex(const std::string& pattern)
    : code_(std::make_shared<const Code>(pattern)) {}

bool PythonRegex::fullmatch(std::string_view subject) const {
  return code_->run(subject, PCRE2_ANCHORED | PCRE2_ENDANCHORED) != nullptr;
}

bool PythonRegex::match(std::string_view subject) const {
  return code_->run(subject, PCRE2_ANCHORED) != nullptr;
}

std::optional<std::string> PythonRegex::match_group(
    std::string_view subject,
    const char* name) const {
  const auto data = code_->run(subject, PCRE2_ANCHORED);
  PCRE2_UCHAR* text = nullptr;
  PCRE2_SIZE length = 0;
  if (!data ||
      pcre2_substring_get_byname(
          data.get(), reinterpret_cast<PCRE2_SPTR>(name), &text, &length) !=
          0) {
    return std::nullopt;
  }
  std::string group(reinterpret_cast<const char*>(text), length);
  pcre2_substring_free(text);
  return group;
}

} // namespace torchlora
