#pragma once

#include <variant>

#include <torchlora/tokenizer/tokenizer.h>

namespace torchlora {

/// One message of a conversation.
struct ChatMessage {
  /// "system", "user", "assistant" or another role that the format knows.
  std::string role;
  /// The text, or the texts of a list of parts
  /// (`[{"type": "text", "text": …}, …]`), which each format joins by its own
  /// rules.
  std::variant<std::string, std::vector<std::string>> content;
};

/// How a model writes a conversation as text: what `chat_template` is in
/// transformers. A model implements it, and the code that prepares data takes
/// one, so that no trainer knows the turn tokens of any model.
class TORCHLORA_API ChatFormat {
 public:
  virtual ~ChatFormat();

  /// The name in messages, for example "gemma4".
  virtual std::string name() const = 0;
  /// The tokens that mark turns. Each must be one token of the tokenizer.
  virtual std::vector<std::string> special_tokens() const = 0;
  /// Returns the text of `messages` with every special token that the model
  /// expects. With `add_generation_prompt` the text ends with the header of
  /// the assistant's turn. DataError for a role that the format does not have.
  virtual std::string apply_chat_template(
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const = 0;

  /// DataError names the special tokens that `tokenizer` does not have:
  /// without this check they would become ordinary text.
  void check_tokenizer(const Tokenizer& tokenizer) const;
  /// Returns the token ids of `apply_chat_template`'s text.
  std::vector<int64_t> encode(
      const Tokenizer& tokenizer,
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const;
};

} // namespace torchlora
