#pragma once

#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora {

/// One message of a conversation: `role` is "system", "developer", "user" or
/// "assistant".
struct ChatMessage {
  /// Who speaks.
  std::string role;
  /// The text.
  std::string content;
};

/// Gemma 4's turn format of `messages`, equal to what its chat template
/// prints (begins with `<bos>`): encode the result without adding special
/// tokens. `add_generation_prompt` ends with the header of a model turn.
/// DataError for a role that is not implemented (tools and media are not).
TORCHLORA_API std::string apply_chat_template(
    const std::vector<ChatMessage>& messages,
    bool add_generation_prompt = false);

} // namespace torchlora
