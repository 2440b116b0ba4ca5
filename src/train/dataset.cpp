#include <torchlora/train/dataset.h>

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>

#include "train/json_lines.h"

namespace torchlora::train {
using nlohmann::json;

namespace {

/// Columns of rows and keys of messages that torchlora does not support and
/// that cannot be ignored, because they change the text.
constexpr const char* kRefusedColumns[] = {
    "tools",
    "chat_template_kwargs",
    "image",
    "images"};
constexpr const char* kRefusedKeys[] = {
    "tool_calls",
    "tool_responses",
    "reasoning",
    "reasoning_content",
    "thinking"}; // which transformers reads as reasoning

/// Returns whether a value is one that a template takes for nothing: null,
/// false, "", [] or {}.
bool is_nothing(const json& value) {
  return value.is_null() || value == false || value == "" ||
      (value.is_structured() && value.empty());
}

bool has(const json& object, const char* key) {
  return object.contains(key) && !object[key].is_null();
}

/// The format of the first row, which all rows must have.
struct Format {
  bool is_conversational;
  bool has_prompt;
};

/// One row of the file.
class JsonRow {
 public:
  JsonRow(const json& object, std::string source)
      : object_(object), source_(std::move(source)) {
    TORCHLORA_CHECK_DATA(
        object.is_object(),
        where(),
        "a row should be a JSON object, found ",
        object.type_name());
    for (const auto* column : kRefusedColumns) {
      TORCHLORA_CHECK_DATA(
          !has(object, column) || is_nothing(object[column]),
          where(),
          "the column `",
          column,
          "` is not supported; remove it");
    }
  }

  Format format() const {
    require("chosen");
    return {object_["chosen"].is_array(), has(object_, "prompt")};
  }

  PreferenceExample example(const Format& format) const {
    TORCHLORA_CHECK_DATA(
        format.has_prompt || !has(object_, "prompt"),
        where(),
        "the row has a `prompt` and the first row has none; all rows must "
        "be alike");
    PreferenceExample example{
        format.has_prompt ? text("prompt", format) : Text(),
        text("chosen", format),
        text("rejected", format),
        source_};
    if (!format.has_prompt) {
      extract_prompt(example);
    }
    return example;
  }

 private:
  std::string where() const {
    return "[load_preference_dataset] " + source_ + ": ";
  }

  void require(const char* field) const {
    TORCHLORA_CHECK_DATA(
        has(object_, field),
        where(),
        "the row has no `",
        field,
        "`; a preference row has `prompt`, `chosen` and `rejected`, or "
        "`chosen` and `rejected` that begin alike");
  }

  Text text(const char* field, const Format& format) const {
    require(field);
    const auto& value = object_[field];
    TORCHLORA_CHECK_DATA(
        value.is_string() || value.is_array(),
        where(),
        "`",
        field,
        "` should be a string or a list of messages, found ",
        value.type_name());
    TORCHLORA_CHECK_DATA(
        value.is_array() == format.is_conversational,
        where(),
        "`",
        field,
        "` should be ",
        format.is_conversational ? "a list of messages" : "a string",
        " like `chosen` of the first row, found ",
        format.is_conversational ? "a string" : "a list",
        "; leave out `prompt` if `chosen` and `rejected` hold the whole "
        "conversation");
    return value.is_string() ? Text(value.get<std::string>())
                             : Text(messages(field));
  }

  std::vector<ChatMessage> messages(const char* field) const {
    const auto& list = object_[field];
    TORCHLORA_CHECK_DATA(
        !list.empty(), where(), "`", field, "` is a list without messages");
    std::vector<ChatMessage> result;
    for (size_t i = 0; i < list.size(); ++i) {
      const auto name = std::string(field) + "[" + std::to_string(i) + "]";
      const auto& message = list[i];
      TORCHLORA_CHECK_DATA(
          message.is_object() && has(message, "role") &&
              message["role"].is_string() && has(message, "content"),
          where(),
          "`",
          name,
          "` should be a message {\"role\": …, \"content\": …}");
      for (const auto* key : kRefusedKeys) {
        TORCHLORA_CHECK_DATA(
            !has(message, key) || is_nothing(message[key]),
            where(),
            "`",
            name,
            ".",
            key,
            "` is not supported; remove it");
      }
      result.push_back(
          {message["role"].get<std::string>(),
           content(message["content"], name + ".content")});
    }
    return result;
  }

  decltype(ChatMessage::content) content(
      const json& value,
      const std::string& name) const {
    if (value.is_string()) {
      return value.get<std::string>();
    }
    TORCHLORA_CHECK_DATA(
        value.is_array(),
        where(),
        "`",
        name,
        "` should be a string or a list of parts, found ",
        value.type_name());
    std::vector<std::string> texts;
    for (const auto& part : value) {
      TORCHLORA_CHECK_DATA(
          part.is_object() && has(part, "type") && part["type"].is_string(),
          where(),
          "`",
          name,
          "` should have parts {\"type\": \"text\", \"text\": …}");
      const auto& type = part["type"].get_ref<const std::string&>();
      TORCHLORA_CHECK_DATA(
          type == "text",
          where(),
          "`",
          name,
          "` has a part of type \"",
          type,
          "\", which is not supported; only text is");
      TORCHLORA_CHECK_DATA(
          has(part, "text") && part["text"].is_string(),
          where(),
          "`",
          name,
          "` has a text part without `text`");
      texts.push_back(part["text"].get<std::string>());
    }
    return texts;
  }

  const json& object_;
  std::string source_;
};

/// Returns the index of the first difference of two sequences. If one continues
/// the other it is one before the end of the shorter one, as in TRL.
template <class Sequence>
size_t first_difference(const Sequence& a, const Sequence& b) {
  const auto differs = [](const auto& x, const auto& y) {
    if constexpr (std::is_same_v<Sequence, std::string>) {
      return x != y;
    } else {
      return x.role != y.role || x.content != y.content;
    }
  };
  const auto shorter = std::min(a.size(), b.size());
  for (size_t i = 0; i < shorter; ++i) {
    if (differs(a[i], b[i])) {
      return i;
    }
  }
  return shorter - 1;
}

/// Returns the first byte of the UTF-8 character that contains `position`.
size_t character_begin(std::string_view text, size_t position) {
  while (position > 0 && (text[position] & 0xC0) == 0x80) {
    --position;
  }
  return position;
}

size_t prompt_length(const std::string& chosen, const std::string& rejected) {
  const auto difference =
      character_begin(chosen, first_difference(chosen, rejected));
  const bool continues =
      chosen.starts_with(rejected) || rejected.starts_with(chosen);
  return !continues && difference > 0 && chosen[difference - 1] == ' '
      ? difference - 1
      : difference;
}

size_t prompt_length(
    const std::vector<ChatMessage>& chosen,
    const std::vector<ChatMessage>& rejected) {
  return first_difference(chosen, rejected);
}

template <class T>
void extract_prompt_from(PreferenceExample& example) {
  auto& chosen = std::get<T>(example.chosen);
  auto& rejected = std::get<T>(example.rejected);
  for (const auto* field : {&chosen, &rejected}) {
    TORCHLORA_CHECK_DATA(
        !field->empty(),
        "[extract_prompt] ",
        example.source,
        ": `",
        field == &chosen ? "chosen" : "rejected",
        "` is empty");
  }
  const auto length = prompt_length(chosen, rejected);
  example.prompt = T(chosen.begin(), chosen.begin() + length);
  chosen.erase(chosen.begin(), chosen.begin() + length);
  rejected.erase(rejected.begin(), rejected.begin() + length);
}

} // namespace

void extract_prompt(PreferenceExample& example) {
  if (std::holds_alternative<std::string>(example.chosen)) {
    extract_prompt_from<std::string>(example);
  } else {
    extract_prompt_from<std::vector<ChatMessage>>(example);
  }
}

std::vector<PreferenceExample> load_preference_dataset(
    const std::filesystem::path& path) {
  std::vector<PreferenceExample> examples;
  std::optional<Format> format;
  for_each_json_line(path, [&](const json& value, const std::string& source) {
    const JsonRow row(value, source);
    if (!format) {
      format = row.format();
    }
    examples.push_back(row.example(*format));
  });
  TORCHLORA_CHECK_DATA(
      !examples.empty(),
      "[load_preference_dataset] ",
      path.string(),
      " has no rows; a row is a JSON object on a line of its own");
  return examples;
}

} // namespace torchlora::train
