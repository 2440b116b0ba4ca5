#include <torchlora/tokenizer/chat_format.h>

#include <torchlora/error.h>

namespace torchlora {

ChatFormat::~ChatFormat() = default;

void ChatFormat::check_tokenizer(const Tokenizer& tokenizer) const {
  for (const auto& token : special_tokens()) {
    TORCHLORA_CHECK_DATA(
        tokenizer.token_to_id(token) >= 0,
        "[ChatFormat::check_tokenizer] the chat format ",
        name(),
        " needs the token ",
        token,
        ", which the tokenizer does not have; use the model's own tokenizer "
        "and chat format, or data whose prompt, chosen and rejected are "
        "strings");
  }
}

std::vector<int64_t> ChatFormat::encode(
    const Tokenizer& tokenizer,
    const std::vector<ChatMessage>& messages,
    bool add_generation_prompt) const {
  return tokenizer.encode(
      apply_chat_template(messages, add_generation_prompt),
      /*add_special_tokens=*/false);
}

} // namespace torchlora
