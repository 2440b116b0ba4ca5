#include "train/json_lines.h"

#include <algorithm>
#include <optional>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/recognize.h"

namespace torchlora::train {
using nlohmann::json;

namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kNotNumbers[] = {"NaN", "Infinity", "-Infinity"};

/// Returns `line` with null in place of NaN, Infinity and -Infinity outside of
/// strings, or nullopt if there is none.
std::optional<std::string> without_nan(std::string_view line) {
  std::string result;
  bool in_string = false, is_changed = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const auto rest = line.substr(i);
    const auto word =
        std::ranges::find_if(kNotNumbers, [&](std::string_view candidate) {
          return !in_string && rest.starts_with(candidate);
        });
    if (word != std::end(kNotNumbers)) {
      result += "null";
      i += word->size() - 1;
      is_changed = true;
      continue;
    }
    if (line[i] == '"') {
      in_string = !in_string;
    } else if (in_string && line[i] == '\\' && i + 1 < line.size()) {
      result += line[i++];
    }
    result += line[i];
  }
  return is_changed ? std::optional(result) : std::nullopt;
}

/// Returns what JSON over several lines is, by its first line, or "".
std::string format_of_json(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t\r\n");
  if (begin == std::string_view::npos) {
    return "";
  }
  auto line = text.substr(begin, text.find('\n', begin) - begin);
  line = line.substr(0, line.find_last_not_of(" \t\r") + 1);
  if (line[0] == '[') {
    return "a JSON array; write its elements as lines (jq -c '.[]' FILE > NEW)";
  }
  if (line == "{") {
    return "JSON objects over several lines; write each on one line (jq -c . "
           "FILE > NEW)";
  }
  return "";
}

json parse_line(std::string_view line, const std::string& source) {
  try {
    return json::parse(line);
  } catch (const json::parse_error& error) {
    if (const auto mended = without_nan(line)) {
      const auto value =
          json::parse(*mended, nullptr, /*allow_exceptions=*/false);
      if (!value.is_discarded()) {
        return value;
      }
    }
    const std::string_view what = error.what();
    TORCHLORA_CHECK_DATA(
        false,
        "[load_preference_dataset] ",
        source,
        " is not valid JSON at byte ",
        error.byte,
        ": ",
        what.substr(std::min(what.find(": "), what.size() - 2) + 2));
  } catch (const json::exception& error) { // a number that no double holds
    TORCHLORA_CHECK_DATA(
        false,
        "[load_preference_dataset] ",
        source,
        " cannot be read: ",
        error.what());
  }
}

} // namespace

void for_each_json_line(
    const std::filesystem::path& path,
    const std::function<void(const json& value, const std::string& source)>&
        visit) {
  const auto content = io::read_file(path);
  std::string_view text = content;
  auto format = io::recognized_format(text);
  if (text.starts_with(kByteOrderMark)) {
    text.remove_prefix(kByteOrderMark.size());
  }
  if (format.empty()) {
    format = format_of_json(text);
  }
  TORCHLORA_CHECK_DATA(
      format.empty(),
      "[load_preference_dataset] ",
      path.string(),
      " should be a JSONL file, one JSON object per line; found ",
      format);
  int64_t line_number = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++line_number;
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
      const auto source = path.string() + ":" + std::to_string(line_number);
      visit(parse_line(line, source), source);
    }
  }
}

} // namespace torchlora::train
