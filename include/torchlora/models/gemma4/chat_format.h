#pragma once

#include <torchlora/tokenizer/chat_format.h>

namespace torchlora::gemma4 {

/// Gemma 4's chat format: writes the text that the checkpoint's chat template
/// prints. A turn is `<|turn>role\n…<turn|>\n`, the text begins with `<bos>`,
/// "assistant" becomes "model". The format leaves out what an assistant message
/// has between `<|channel>` and `<channel|>` (its thoughts). The roles are
/// "system", "developer", "user" and "assistant"; tools and media are not
/// implemented.
class TORCHLORA_API ChatFormat : public torchlora::ChatFormat {
 public:
  std::string name() const override;
  std::vector<std::string> special_tokens() const override;
  std::string apply_chat_template(
      const std::vector<ChatMessage>& messages,
      bool add_generation_prompt = false) const override;
};

} // namespace torchlora::gemma4
