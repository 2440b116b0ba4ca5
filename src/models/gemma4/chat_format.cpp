#include <torchlora/models/gemma4/chat_format.h>

#include <algorithm>

#include <torchlora/error.h>

#include "tokenizer/unicode.h"

namespace torchlora::gemma4 {

namespace {

constexpr const char* kBos = "<bos>";
constexpr const char* kTurn = "<|turn>";
constexpr const char* kTurnEnd = "<turn|>";
constexpr std::string_view kChannel = "<|channel>";
constexpr std::string_view kChannelEnd = "<channel|>";

/// Removes the text between `<|channel>` and `<channel|>`.
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

/// Returns the content as the template prints it: each part of a list without
/// the white space around it, and a space behind each part of the system turn.
std::string text_of(const ChatMessage& message, bool is_system_turn) {
  const auto print = [&](std::string_view text) {
    return message.role == "assistant" ? strip_thinking(text)
                                       : std::string(detail::strip(text));
  };
  if (const auto* text = std::get_if<std::string>(&message.content)) {
    return print(*text);
  }
  std::string joined;
  for (const auto& part : std::get<std::vector<std::string>>(message.content)) {
    joined += print(part) + (is_system_turn ? " " : "");
  }
  return joined;
}

} // namespace

std::string ChatFormat::name() const {
  return "gemma4";
}

std::vector<std::string> ChatFormat::special_tokens() const {
  return {kBos, kTurn, kTurnEnd};
}

std::string ChatFormat::apply_chat_template(
    const std::vector<ChatMessage>& messages,
    bool add_generation_prompt) const {
  std::string text = kBos;
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
    const bool is_system_turn = i == 0 && is_system(message);
    const auto is_assistant_at = [&](size_t j) {
      return j < messages.size() && messages[j].role == "assistant";
    };
    // Consecutive assistant messages are one turn.
    const bool continues = is_assistant && i > 0 && is_assistant_at(i - 1);
    if (!continues) {
      const auto role = is_assistant ? "model"
          : is_system_turn           ? "system"
                                     : message.role;
      text += kTurn + role + "\n";
    }
    text += text_of(message, is_system_turn);
    if (!is_assistant || !is_assistant_at(i + 1)) {
      text += std::string(kTurnEnd) + "\n";
    }
  }
  if (add_generation_prompt) {
    text += std::string(kTurn) + "model\n";
  }
  return text;
}

} // namespace torchlora::gemma4
