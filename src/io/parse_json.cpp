#include "io/parse_json.h"

#include <optional>
#include <set>
#include <vector>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/recognize.h"
#include "text/utf8.h"

namespace torchlora::io {
using nlohmann::json;

namespace {

/// Counts brackets and commas outside of strings. Text that is not JSON is left
/// to the parser.
void check_structure(std::string_view text, const std::string& where) {
  size_t depth = 0, values = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      i += c == '\\';
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      ++values;
      TORCHLORA_CHECK_DATA(
          ++depth <= kMaxJsonDepth,
          where,
          "the JSON is nested deeper than ",
          kMaxJsonDepth,
          " levels");
    } else if (c == ']' || c == '}') {
      depth -= depth > 0 ? 1 : 0;
    } else {
      values += c == ',' ? 1 : 0;
    }
  }
  TORCHLORA_CHECK_DATA(
      values <= kMaxJsonValues,
      where,
      "the JSON has ",
      values,
      " values; at most ",
      kMaxJsonValues,
      " are read");
}

json parse(
    std::string_view text,
    const std::string& where,
    const json::parser_callback_t& callback) {
  const auto format = recognized_format(text);
  TORCHLORA_CHECK_DATA(format.empty(), where, "expected JSON, found ", format);
  check_structure(text, where);
  try {
    return json::parse(text.begin(), text.end(), callback);
  } catch (const json::exception& e) {
    TORCHLORA_CHECK_DATA(false, where, "not valid JSON: ", e.what());
  }
}

} // namespace

json parse_json(std::string_view text, const std::string& where) {
  return parse(text, where, nullptr);
}

json parse_json_unique(std::string_view text, const std::string& where) {
  std::vector<std::set<std::string>> names;
  std::optional<std::string> duplicate;
  auto parsed = parse(
      text, where, [&](int /*depth*/, json::parse_event_t event, json& value) {
        if (event == json::parse_event_t::object_start) {
          names.emplace_back();
        } else if (event == json::parse_event_t::object_end) {
          names.pop_back();
        } else if (
            event == json::parse_event_t::key &&
            !names.back().insert(value.get<std::string>()).second) {
          duplicate = value.get<std::string>();
        }
        return true;
      });
  TORCHLORA_CHECK_DATA(
      !duplicate, where, "the JSON has the name \"", *duplicate, "\" twice");
  return parsed;
}

std::string json_text(const json& value) {
  return std::string(detail::first_characters(
      value.dump(-1, ' ', false, json::error_handler_t::replace), 200));
}

json read_json(const std::filesystem::path& path, const std::string& where) {
  return parse_json(read_file(path, kMaxJsonBytes), where);
}

} // namespace torchlora::io
