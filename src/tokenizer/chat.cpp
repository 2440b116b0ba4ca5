#include <torchlora/tokenizer/chat.h>

#include <algorithm>

#include <torchlora/error.h>

#include "tokenizer/unicode.h"

namespace torchlora {

namespace {

constexpr std::string_view kChannel = "<|channel>";
constexpr std::string_view kChannelEnd = "<channel|>";

/// Without what stands between `<|channel>` and `<channel|>`.
std::string strip_thinking(std::string_view text) {
  std::string result;
  for (size_t begin = 0; begin <= text.size();) {
    const auto end = std::min(text.find(kChannelEnd, begin), text.size());
    const auto part = text.substr(begin, end - begin);
    result.append(part.substr(0, part.find(kChannel)));
    begin = end + kChannelEnd.size();
  }
  return std::string(detail::strip(result));
}

bool is_system(const ChatMessage& message) {
  return message.role == "system" || message.role == "developer";
}

} // namespace

std::string apply_chat_template(
    const std::vector<ChatMessage>& messages,
    bool add_generation_prompt) {
  std::string text = "<bos>";
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto& message = messages[i];
    const bool is_assistant = message.role == "assistant";
    TORCHLORA_CHECK_DATA(
        is_assistant || message.role == "user" || is_system(message),
        "[apply_chat_template] message ",
        i + 1,
        " has the role \"",
        message.role,
        "\"; supported are system, developer, user and assistant");
    const auto is_assistant_at = [&](size_t j) {
      return j < messages.size() && messages[j].role == "assistant";
    };
    const bool continues = is_assistant && i > 0 && is_assistant_at(i - 1);
    if (!continues) {
      const auto role = is_assistant     ? "model"
          : i == 0 && is_system(message) ? "system"
                                         : message.role;
      text += "<|turn>" + role + "\n";
    }
    text += is_assistant ? strip_thinking(message.content)
                         : std::string(detail::strip(message.content));
    if (!is_assistant || !is_assistant_at(i + 1)) {
      text += "<turn|>\n";
    }
  }
  if (add_generation_prompt) {
    text += "<|turn>model\n";
  }
  return text;
}

} // namespace torchlora
