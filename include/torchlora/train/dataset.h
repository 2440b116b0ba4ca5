#pragma once

#include <variant>

#include <torchlora/tokenizer/chat_format.h>

namespace torchlora::train {

/// A prompt or a completion: a string (TRL's "standard" format) or a list of
/// messages ("conversational").
using Text = std::variant<std::string, std::vector<ChatMessage>>;

/// A preference pair: a prompt and two completions. All three texts have the
/// same format.
struct PreferenceExample {
  /// @{
  /// The prompt, the better and the worse completion. `extract_prompt` makes
  /// the prompt of a row that has none.
  Text prompt, chosen, rejected;
  /// @}

  /// Where the row comes from, for error messages, for example
  /// "pairs.jsonl:17".
  std::string source;

  /// Returns whether the three texts are lists of messages and not strings.
  bool is_conversational() const {
    return std::holds_alternative<std::vector<ChatMessage>>(prompt);
  }
};

/// Reads a JSONL file of preference pairs. A row is an object with `prompt`,
/// `chosen` and `rejected`, or with `chosen` and `rejected` only, whose common
/// beginning becomes the prompt (`extract_prompt`). A value is a string or a
/// list of {"role", "content"}; a content is a string or a list of {"type":
/// "text", "text"} parts. The first row decides the format of all rows. Skips
/// blank lines and ignores other columns. NaN and Infinity, which Python's json
/// writes, are null.
///
/// DataError names file, line and field: a file that is missing, has no rows,
/// has another format (it says which) or broken JSON; a field that is missing
/// or has another format; media; keys of messages that a chat template would
/// print, such as `tool_calls` and `reasoning_content`, unless they hold
/// nothing (null, "", [] or {}).
TORCHLORA_API std::vector<PreferenceExample> load_preference_dataset(
    const std::filesystem::path& path);

/// Moves the beginning that `chosen` and `rejected` share, counted in
/// characters or in messages, into `prompt`. TRL's `extract_prompt` with its
/// special cases: a space before the first difference stays in the completions,
/// and if one text continues the other, the prompt ends one element before the
/// end of the shorter text. DataError if `chosen` or `rejected` is empty.
TORCHLORA_API void extract_prompt(PreferenceExample& example);

} // namespace torchlora::train
