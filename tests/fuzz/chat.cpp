// Input: messages with a zero byte between them. The first byte of a message
// chooses its role and whether its content is a list of parts, which line feeds
// separate.
#include <array>

#include <torchlora/models/gemma4/chat_format.h>

#include "fuzz/harness.h"
#include "text/utf8.h"
#include "tokenizer/unicode.h"

using namespace torchlora;

namespace {

ChatMessage next_message(fuzz::Input& input) {
  constexpr std::array kRoles = {
      "user", "assistant", "system", "developer", "tool", "model", "", "bot"};
  fuzz::Input message(input.take_until('\0'));
  const auto choice = message.take_byte();
  ChatMessage result{kRoles[choice % kRoles.size()], ""};
  if (choice & 0x80) {
    std::vector<std::string> parts;
    while (!message.empty()) {
      parts.emplace_back(message.take_until('\n'));
    }
    result.content = std::move(parts);
  } else {
    result.content = std::string(message.rest());
  }
  return result;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto tokenizer = Tokenizer::from_pretrained(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "tokenizer");
  fuzz::Input input(data, size);
  std::vector<ChatMessage> messages;
  while (!input.empty()) {
    messages.push_back(next_message(input));
  }
  const gemma4::ChatFormat format;
  std::string text;
  fuzz::accept_data_error(
      [&] { text = format.apply_chat_template(messages, size % 2 == 0); });
  const auto decoded = tokenizer.decode(tokenizer.encode(text));
  fuzz::expect(
      !detail::is_valid_utf8(text) ||
          decoded == detail::replace_all(text, "\u2581", " "),
      "a text is decoded as it was encoded");
  return 0;
}
