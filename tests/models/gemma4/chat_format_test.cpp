#include <torchlora/models/gemma4/chat_format.h>

#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <torchlora/error.h>

namespace torchlora::gemma4 {
namespace {

const std::string kFolder = std::string(TORCHLORA_TEST_DATA) + "/tokenizer";

/// The cases of text alone: no tools, no thinking, no media, content as one
/// string.
bool is_text_case(const nlohmann::json& c) {
  for (const auto& [key, value] : c["kwargs"].items()) {
    if (key != "add_generation_prompt") {
      return false;
    }
  }
  for (const auto& message : c["messages"]) {
    if (message.size() != 2 || !message["content"].is_string()) {
      return false;
    }
  }
  return true;
}

TEST(ChatFormat, EqualsTheReferenceInEveryTextCase) {
  const auto tokenizer = Tokenizer::from_pretrained(kFolder);
  int compared = 0;
  for (const auto* name : {"/chat_cases.json", "/chat_text_cases.json"}) {
    nlohmann::json cases;
    std::ifstream(kFolder + name) >> cases;
    for (const auto& c : cases) {
      if (!is_text_case(c)) {
        continue;
      }
      std::vector<ChatMessage> messages;
      for (const auto& message : c["messages"]) {
        messages.push_back(
            {message["role"].get<std::string>(),
             message["content"].get<std::string>()});
      }
      const bool prompt = c["kwargs"].value("add_generation_prompt", false);
      EXPECT_EQ(
          ChatFormat().apply_chat_template(messages, prompt),
          c["text"].get<std::string>());
      EXPECT_EQ(
          ChatFormat().encode(tokenizer, messages, prompt),
          c["ids"].get<std::vector<int64_t>>());
      ++compared;
    }
  }
  EXPECT_GE(compared, 20);
}

TEST(ChatFormat, JoinsPartsWithoutTheSpaceAroundEach) {
  EXPECT_EQ(
      ChatFormat().apply_chat_template(
          {{"user", std::vector<std::string>{" a ", "b"}}}),
      ChatFormat().apply_chat_template({{"user", "ab"}}));
}

// What the template of the newest revision prints.
TEST(ChatFormat, PrintsPartsAsTheTemplateDoes) {
  using Parts = std::vector<std::string>;
  EXPECT_EQ(
      ChatFormat().apply_chat_template({{"system", Parts{" b ", "c"}}}),
      "<bos><|turn>system\nb c <turn|>\n");
  EXPECT_EQ(
      ChatFormat().apply_chat_template(
          {{"user", "q"}, {"assistant", Parts{"a<|channel>b", " c "}}}),
      "<bos><|turn>user\nq<turn|>\n<|turn>model\nac<turn|>\n");
}

TEST(ChatFormat, RefusesOtherRolesByName) {
  try {
    ChatFormat().apply_chat_template({{"user", "Hi"}, {"tool", "rain"}});
    ADD_FAILURE();
  } catch (const DataError& e) {
    EXPECT_NE(std::string(e.what()).find("\"tool\""), std::string::npos);
  }
}

} // namespace
} // namespace torchlora::gemma4
