#include <chrono>
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/tokenizer/tokenizer.h>

namespace torchlora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kFolder = fs::path(TORCHLORA_TEST_DATA) / "tokenizer";

json read_json(const fs::path& path) {
  json value;
  std::ifstream(path) >> value;
  return value;
}

/// tokenizer.json changed by `edit`, in a file of its own.
fs::path edited(const std::function<void(json&)>& edit) {
  auto value = read_json(kFolder / "tokenizer.json");
  edit(value);
  const auto path = fs::path(testing::TempDir()) / "edited_tokenizer.json";
  std::ofstream(path) << value;
  return path;
}

TEST(Tokenizer, EqualsTheReferenceInEveryCase) {
  const auto tokenizer = Tokenizer::from_pretrained(kFolder);
  const auto cases = read_json(kFolder / "tokenizer_cases.json");
  ASSERT_GT(cases["encode"].size(), 300U);
  for (const auto& c : cases["encode"]) {
    const auto text = c["text"].get<std::string>();
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(ids, c["ids"].get<std::vector<int64_t>>()) << text;
    EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>());
    EXPECT_EQ(
        tokenizer.decode(ids, /*skip_special_tokens=*/true),
        c["decoded_skip_special"].get<std::string>());
  }
  for (const auto& c : cases["decode_only"]) {
    const auto ids = c["ids"].get<std::vector<int64_t>>();
    EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>());
    EXPECT_EQ(
        tokenizer.decode(ids, /*skip_special_tokens=*/true),
        c["decoded_skip_special"].get<std::string>());
  }
}

TEST(Tokenizer, ReadsTheSpecialTokens) {
  const auto tokenizer = Tokenizer::from_pretrained(kFolder);
  EXPECT_EQ(tokenizer.bos_token(), "<bos>");
  EXPECT_EQ(tokenizer.bos_token_id(), 2);
  EXPECT_EQ(tokenizer.eos_token_id(), 1);
  EXPECT_EQ(tokenizer.pad_token_id(), 0);
  EXPECT_EQ(tokenizer.token_to_id("<|turn>"), 105);
  EXPECT_EQ(tokenizer.id_to_token(106), "<turn|>");
  EXPECT_EQ(tokenizer.token_to_id("no such token"), -1);
  EXPECT_THROW(tokenizer.id_to_token(-1), c10::ValueError);
  EXPECT_THROW(tokenizer.decode({1 << 20}), c10::ValueError);
}

TEST(Tokenizer, MergesSpelledAsStringsAreTheSame) {
  const auto path = edited([](json& value) {
    // A merge with a space in a token cannot be spelled that way.
    for (auto& merge : value["model"]["merges"]) {
      merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
  });
  const std::string text = "The quick brown fox, 12 apples.";
  EXPECT_EQ(
      Tokenizer::from_pretrained(path).encode(text),
      Tokenizer::from_pretrained(kFolder).encode(text));
}

TEST(Tokenizer, ThePostProcessorsTokensAreAddedOnRequest) {
  const auto path = edited([](json& value) {
    value["post_processor"] = json::parse(R"({
      "type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}},
                 {"Sequence": {"id": "A", "type_id": 0}}],
      "special_tokens": {
        "<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}})");
  });
  const auto tokenizer = Tokenizer::from_pretrained(path);
  EXPECT_EQ(tokenizer.encode("Hi").front(), 2);
  EXPECT_NE(tokenizer.encode("Hi", /*add_special_tokens=*/false).front(), 2);
}

TEST(Tokenizer, RefusesByNameWhatItDoesNotImplement) {
  const std::pair<const char*, std::function<void(json&)>> table[] = {
      {"Unigram", [](json& v) { v["model"]["type"] = "Unigram"; }},
      {"dropout", [](json& v) { v["model"]["dropout"] = 0.1; }},
      {"ignore_merges", [](json& v) { v["model"]["ignore_merges"] = true; }},
      {"end_of_word_suffix",
       [](json& v) { v["model"]["end_of_word_suffix"] = "</w>"; }},
      {"NFC", [](json& v) { v["normalizer"] = {{"type", "NFC"}}; }},
      {"ByteLevel",
       [](json& v) { v["pre_tokenizer"] = {{"type", "ByteLevel"}}; }},
      {"Isolated",
       [](json& v) { v["pre_tokenizer"]["behavior"] = "Isolated"; }},
      {"RobertaProcessing",
       [](json& v) { v["post_processor"]["type"] = "RobertaProcessing"; }},
      {"Metaspace", [](json& v) { v["decoder"] = {{"type", "Metaspace"}}; }},
      {"lstrip", [](json& v) { v["added_tokens"][0]["lstrip"] = true; }},
      {"not in the vocabulary",
       [](json& v) { v["model"]["merges"][0] = {"q", "no such token"}; }},
      {"vocab", [](json& v) { v["model"].erase("vocab"); }},
      {"merges", [](json& v) { v["model"]["merges"] = "x"; }},
  };
  for (const auto& [name, edit] : table) {
    const auto path = edited(edit);
    try {
      Tokenizer::from_pretrained(path);
      ADD_FAILURE() << name << " was taken";
    } catch (const DataError& e) {
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos)
          << e.what();
    }
  }
  EXPECT_THROW(Tokenizer::from_pretrained("no such folder"), DataError);
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_GT(tokenizer.encode(text).size(), text.size() / 10);
    const std::chrono::duration<double> time =
        std::chrono::steady_clock::now() - begin;
    best = std::min(best, time.count());
  }
  return best;
}

// Quadratic merging would take 16 times as long for 4 times the text.
TEST(Tokenizer, TimeIsNearlyLinearInTheLengthOfTheText) {
  const auto tokenizer = Tokenizer::from_pretrained(kFolder);
  std::string text;
  while (text.size() < 1 << 20) {
    text += "A long text without any special token, all of it one word. ";
  }
  const auto quarter = text.substr(0, text.size() / 4);
  EXPECT_LT(
      seconds_to_encode(tokenizer, text),
      10 * seconds_to_encode(tokenizer, quarter));
}

} // namespace
} // namespace torchlora
