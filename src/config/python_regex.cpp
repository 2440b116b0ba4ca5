#define PCRE2_CODE_UNIT_WIDTH 8

#include "config/python_regex.h"

#include <array>
#include <cstdint>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <pcre2.h>

#include "config/python_regex_parser.h"

namespace torchlora {

struct PythonRegex::Code {
  explicit Code(const std::string& pattern_) : pattern(pattern_) {
    auto translated = translate_python_regex(pattern);
    groups = std::move(translated.groups);
    auto* context = pcre2_compile_context_create(nullptr);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(translated.pattern.data()),
        translated.pattern.size(),
        PCRE2_UTF | PCRE2_UCP | PCRE2_ALT_CIRCUMFLEX,
        &error,
        &offset,
        context);
    pcre2_compile_context_free(context);
    TORCH_CHECK_VALUE(
        code,
        fmt::format(
            "[regex] PCRE2 cannot compile \"{}\": {}",
            pattern,
            message(error)));
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
  std::map<std::u32string, uint32_t> groups;
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
    std::string_view name) const {
  const auto data = code_->run(subject, PCRE2_ANCHORED);
  const auto group =
      code_->groups.find(std::u32string(name.begin(), name.end()));
  if (!data || group == code_->groups.end()) {
    return std::nullopt;
  }
  const auto* ends = pcre2_get_ovector_pointer(data.get()) + 2 * group->second;
  if (ends[0] == PCRE2_UNSET) {
    return std::nullopt;
  }
  return std::string(subject.substr(ends[0], ends[1] - ends[0]));
}

} // namespace torchlora
