#pragma once

#include <torchlora/tokenizer/chat_format.h>

namespace torchlora::gemma4 {

/// Gemma 4's turn format: equal to what the chat template of the checkpoint
/// prints for text. A turn is `<|turn>role\n…<turn|>\n`, the text begins with
/// `<bos>`, "assistant" is written as "model", and what an assistant message
/// has between `<|channel>` and `<channel|>` (its thoughts) is left out.
/// The roles are "system", "developer", "user" and "assistant"; tools and media
/// are not implemented.
class TORCHLORA_API ChatFormat : public torchlora::ChatFormat {
 public:
  std::string name() const override;
  std::vector<std::string> special_tokens() const override;
  std::string apply_chat_template(
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const override;
};

} // namespace torchlora::gemma4
