#pragma once

#include <variant>

#include <torchlora/tokenizer/tokenizer.h>

namespace torchlora {

/// One message of a conversation: who says what.
struct ChatMessage {
  /// Who speaks: "system", "user", "assistant" or another role that the chat
  /// format knows.
  std::string role;
  /// The text of the message, or the texts of a list of parts (`[{"type":
  /// "text", "text": …}, …]`). Each chat format joins parts by its own rules.
  std::variant<std::string, std::vector<std::string>> content;
};

/// The way in which a model writes a conversation as text: what `chat_template`
/// is in transformers. A model implements it and the functions that prepare
/// data take one, so that no trainer knows the turn tokens of any model.
class TORCHLORA_API ChatFormat {
 public:
  virtual ~ChatFormat();

  /// Returns the name of the format in error messages, for example "gemma4".
  virtual std::string name() const = 0;
  /// Returns the tokens that mark the turns of a conversation. The tokenizer
  /// must have each of them as one token.
  virtual std::vector<std::string> special_tokens() const = 0;
  /// Returns the text of `messages` with every special token that the model
  /// expects. With `add_generation_prompt` the text ends with the header of the
  /// assistant's turn. DataError for a role that the format does not have.
  virtual std::string apply_chat_template(
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const = 0;

  /// Checks that `tokenizer` has every token of `special_tokens()`; a missing
  /// one would become ordinary text. DataError names the first one that is
  /// missing.
  void check_tokenizer(const Tokenizer& tokenizer) const;
  /// Returns the token ids of the text that `apply_chat_template` returns. The
  /// tokenizer adds no special tokens to that text.
  std::vector<int64_t> encode(
      const Tokenizer& tokenizer,
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const;
};

} // namespace torchlora
