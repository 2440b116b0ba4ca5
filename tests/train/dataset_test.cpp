#include <torchlora/train/dataset.h>

#include <fstream>

#include <gtest/gtest.h>

#include <torchlora/error.h>

namespace torchlora::train {
namespace {
namespace fs = std::filesystem;

class PreferenceDataset : public testing::Test {
 protected:
  std::vector<PreferenceExample> load(const std::string& content) {
    std::ofstream(path_, std::ios::binary) << content;
    return load_preference_dataset(path_);
  }

  std::string error_of(const std::string& content) {
    try {
      load(content);
    } catch (const DataError& error) {
      return error.what_without_backtrace();
    }
    return "no error";
  }

  const fs::path path_ = fs::path(testing::TempDir()) /
      (std::string("pairs_") +
       testing::UnitTest::GetInstance()->current_test_info()->name() +
       ".jsonl");
};

const std::string& text(const Text& value) {
  return std::get<std::string>(value);
}

TEST_F(PreferenceDataset, SkipsBlankLinesAndIgnoresColumns) {
  const auto rows = load(
      "\n{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\", \"id\": "
      "7}\r\n"
      "  \n{\"prompt\": \"q\", \"chosen\": \"d\", \"rejected\": \"s\"}");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(text(rows[0].prompt), "p");
  EXPECT_EQ(text(rows[1].rejected), "s");
  EXPECT_TRUE(rows[1].source.ends_with(".jsonl:4"));
  EXPECT_FALSE(rows[0].is_conversational());
}

TEST_F(PreferenceDataset, ReadsMessagesWithTextParts) {
  const auto rows = load(
      R"({"prompt": [{"role": "user", "content": [{"type": "text", "text": " a "}, {"type": "text", "text": "b"}]}],)"
      R"( "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]})");
  ASSERT_TRUE(rows.at(0).is_conversational());
  const auto& prompt = std::get<std::vector<ChatMessage>>(rows[0].prompt);
  EXPECT_EQ(prompt.at(0).role, "user");
  EXPECT_EQ(
      std::get<std::vector<std::string>>(prompt.at(0).content),
      (std::vector<std::string>{" a ", "b"}));
}

TEST_F(PreferenceDataset, ErrorsNameFileLineAndField) {
  const std::string good = R"({"prompt": "p", "chosen": "c", "rejected": "r"})"
                           "\n";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"{\"prompt\": \"p\", \"chosen\": ", ":2 is not valid JSON at byte"},
      {R"({"prompt": "p", "chosen": "c"})", ":2: the row has no `rejected`"},
      {R"({"chosen": "c", "rejected": "r"})", ":2: the row has no `prompt`"},
      {R"({"prompt": 5, "chosen": "c", "rejected": "r"})",
       ":2: `prompt` should be a string or a list of messages, found number"},
      {R"({"prompt": "p", "chosen": [], "rejected": "r"})",
       ":2: `chosen` should be a string like `chosen` of the first row"},
      {"[1]", ":2: a row should be a JSON object, found array"},
      {"{\"prompt\": \"\xff\", \"chosen\": \"c\", \"rejected\": \"r\"}",
       ":2 is not valid JSON"},
      {R"({"prompt": "p", "chosen": "c", "rejected": "r", "score": 1e999})",
       ":2 cannot be read"},
      {R"({"prompt": "p", "chosen": "c", "rejected": "r", "images": ["a"]})",
       ":2: the column `images` is not supported"},
  };
  for (const auto& [row, message] : cases) {
    EXPECT_PRED_FORMAT2(testing::IsSubstring, message, error_of(good + row));
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring, path_.string(), error_of(good + row));
  }
}

TEST_F(PreferenceDataset, RefusesWhatTheTemplateCannotPrint) {
  const auto row = [](const std::string& prompt) {
    return R"({"prompt": [)" + prompt +
        R"(], "chosen": [{"role": "assistant", "content": "c"}], "rejected": [{"role": "assistant", "content": "r"}]})";
  };
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "`prompt[0].content` has a part of type \"image\"",
      error_of(row(R"({"role": "user", "content": [{"type": "image"}]})")));
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "`prompt[0].tool_calls` is not supported",
      error_of(row(R"({"role": "user", "content": "a", "tool_calls": [1]})")));
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "`prompt[0]` should be a message",
      error_of(row(R"({"content": "a"})")));
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "`prompt` is a list without", error_of(row("")));
}

TEST_F(PreferenceDataset, WhatHoldsNothingIsNothing) {
  for (const auto* nothing : {"null", "false", R"("")", "[]", "{}"}) {
    for (const auto* key :
         {"tool_calls",
          "tool_responses",
          "reasoning",
          "reasoning_content",
          "thinking"}) {
      const auto message = R"([{"role": "assistant", "content": "a", ")" +
          std::string(key) + R"(": )" + nothing + "}]";
      const auto rows = load(
          R"({"prompt": [{"role": "user", "content": "q"}], "chosen": )" +
          message + R"(, "rejected": )" + message + R"(, "tools": )" + nothing +
          "}");
      EXPECT_EQ(rows.size(), 1U);
    }
  }
}

TEST_F(PreferenceDataset, KeysThatTheTemplateWouldPrintAreNamed) {
  for (const auto* key :
       {"tool_calls", "tool_responses", "reasoning", "thinking"}) {
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring,
        "`prompt[0]." + std::string(key) + "` is not supported",
        error_of(
            R"({"prompt": [{"role": "user", "content": "q", ")" +
            std::string(key) +
            R"(": "x"}], "chosen": [{"role": "assistant", "content": "c"}], "rejected": []})"));
  }
}

// Python's json writes them for missing numbers.
TEST_F(PreferenceDataset, NanOutsideOfStringsIsNull) {
  const auto rows = load(
      R"({"prompt": "NaN", "chosen": "\"Infinity", "rejected": "-Infinity", "score": NaN, "low": -Infinity, "high": [Infinity]})");
  ASSERT_EQ(rows.size(), 1U);
  EXPECT_EQ(text(rows[0].prompt), "NaN");
  EXPECT_EQ(text(rows[0].chosen), "\"Infinity");
  EXPECT_EQ(text(rows[0].rejected), "-Infinity");
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "the row has no `chosen`",
      error_of(R"({"prompt": "p", "chosen": NaN, "rejected": "r"})"));
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "not valid JSON",
      error_of(R"({"prompt": "p", "chosen": NaNa, "rejected": "r"})"));
}

TEST_F(PreferenceDataset, OtherFormatsAreRecognizedByTheirContent) {
  using namespace std::string_literals;
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"prompt,chosen,rejected\np,c,r\n", "CSV"},
      {"prompt\tchosen\trejected\np\tc\tr\n", "CSV"},
      {"- prompt: p\n  chosen: c\n", "YAML"},
      {"# pairs\nprompt: p\n", "YAML"},
      {"---\na: b\n", "YAML"},
      {"PAR1\x15\x04", "parquet"},
      {"ARROW1", "Arrow"},
      {"\x1f\x8b\x08\0"s, "gzip"},
      {"BZh91AY", "bzip2"},
      {"\xfd\x37zXZ", "xz"},
      {"\x28\xb5\x2f\xfd", "zstd"},
      {"PK\x03\x04", "zip"},
      {"\x80\x02}q", "pickle"},
      {"\xff\xfe{\0\"\0"s, "UTF-16"},
      {"\xfe\xff\0{"s, "UTF-16"},
      {"{\0\"\0p\0"s, "UTF-16"},
      {"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "LFS"},
      {"<!DOCTYPE html>\n<html>", "web page"},
      {"[\n {\"prompt\": \"p\"}]", "JSON array"},
      {"{\n  \"prompt\": \"p\"\n}\n", "several lines"},
  };
  for (const auto& [content, format] : cases) {
    const auto error = error_of(content);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, "should be a JSONL file", error);
    EXPECT_PRED_FORMAT2(testing::IsSubstring, format, error);
  }
  EXPECT_EQ(
      load("\xEF\xBB\xBF{\"prompt\": \"p\", \"chosen\": \"c\", "
           "\"rejected\": \"r\"}")
          .size(),
      1U);
}

TEST_F(PreferenceDataset, NoRowsAndNoFileAreErrors) {
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "has no rows", error_of(""));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "has no rows", error_of("\n \n"));
  EXPECT_THROW(load_preference_dataset(path_ / "missing"), DataError);
}

// Prompt, chosen and rejected as TRL's extract_prompt makes them.
TEST(ExtractPrompt, EndsBeforeTheFirstDifferentCharacter) {
  const std::vector<std::array<std::string, 5>> cases = {
      {"The sky is blue.",
       "The sky is green.",
       "The sky is",
       " blue.",
       " green."},
      {"ab", "abc", "a", "b", "bc"},
      {"abc", "abc", "ab", "c", "c"},
      {"a b ", "a b c", "a b", " ", " c"},
      {"x", "y", "", "x", "y"},
      {"caf\u00e9", "caf\u00e8", "caf", "\u00e9", "\u00e8"},
  };
  for (const auto& [chosen, rejected, prompt, rest, other] : cases) {
    PreferenceExample example{"", chosen, rejected, ""};
    extract_prompt(example);
    EXPECT_EQ(text(example.prompt), prompt);
    EXPECT_EQ(text(example.chosen), rest);
    EXPECT_EQ(text(example.rejected), other);
  }
}

TEST(ExtractPrompt, AnEmptyTextIsAnError) {
  PreferenceExample example{"", "", "abc", "pairs.jsonl:3"};
  EXPECT_THROW(extract_prompt(example), DataError);
}

} // namespace
} // namespace torchlora::train
