#pragma once

#include <filesystem>
#include <string>
#include <variant>
#include <vector>

#include <torchlora/export.h>
#include <torchlora/tokenizer/chat.h>

namespace torchlora::train {

/// A text (TRL's "standard" format) or messages ("conversational").
using Text = std::variant<std::string, std::vector<ChatMessage>>;

/// A preference pair. All three have the same format.
struct PreferenceExample {
  /// @{
  /// As the file has them; `extract_prompt` for one without a prompt.
  Text prompt, chosen, rejected;
  /// @}

  /// Where it came from, for messages: "pairs.jsonl:17".
  std::string source;

  /// Whether they are messages.
  bool is_conversational() const {
    return std::holds_alternative<std::vector<ChatMessage>>(prompt);
  }
};

/// Reads a JSONL file of preference pairs: objects with `prompt`, `chosen`
/// and `rejected`, or without `prompt`, which then is what the two have in
/// common (`extract_prompt`). Values are strings or lists of {"role",
/// "content"}; a content is a string or a list of {"type": "text", "text"}
/// parts. The first row decides the format of all. Blank lines are skipped,
/// other columns ignored.
///
/// DataError names file, line and field: no file, no rows, broken JSON, a
/// field that is missing or has another format, media.
TORCHLORA_API std::vector<PreferenceExample> load_preference_dataset(
    const std::filesystem::path& path);

/// Moves what `chosen` and `rejected` begin with in common, in characters or
/// in messages, to `prompt`. TRL's `extract_prompt`, with what users meet of
/// it: a space before the first difference goes to the completions, and if
/// one continues the other the prompt ends one element before the shorter
/// one's end. DataError if one of the two is empty.
TORCHLORA_API void extract_prompt(PreferenceExample& example);

} // namespace torchlora::train
