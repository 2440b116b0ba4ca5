#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <set>

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
  const auto folder = fs::path(testing::TempDir()) / "edited_tokenizer";
  fs::create_directories(folder);
  const auto path = folder / "tokenizer.json";
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

// Every supported component and option, as tests/reference/
// make_tokenizer_variants.py had them read by the tokenizers package.
TEST(Tokenizer, EqualsTheReferenceInEveryVariantOfTheFile) {
  const auto variants = read_json(kFolder / "variant_cases.json");
  ASSERT_GE(variants.size(), 12U);
  for (const auto& variant : variants) {
    SCOPED_TRACE(variant["name"].get<std::string>());
    const auto tokenizer = Tokenizer::from_pretrained(
        edited([&](json& value) { value.merge_patch(variant["patch"]); }));
    for (const auto& c : variant["cases"]) {
      const auto text = c["text"].get<std::string>();
      const auto ids = tokenizer.encode(text);
      EXPECT_EQ(ids, c["ids"].get<std::vector<int64_t>>()) << text;
      EXPECT_EQ(
          tokenizer.encode(text, /*add_special_tokens=*/false),
          c["plain_ids"].get<std::vector<int64_t>>())
          << text;
      EXPECT_EQ(tokenizer.decode(ids), c["decoded"].get<std::string>());
      EXPECT_EQ(
          tokenizer.decode(ids, /*skip_special_tokens=*/true),
          c["decoded_skip_special"].get<std::string>());
    }
  }
}

TEST(Tokenizer, SpecialTokensMayBeObjects) {
  const auto path = edited([](json&) {});
  const auto config = path.parent_path() / "tokenizer_config.json";
  std::ofstream(config)
      << R"({"bos_token": {"content": "<bos>", "lstrip": false},
             "eos_token": "<turn|>", "pad_token": null})";
  const auto tokenizer = Tokenizer::from_pretrained(path);
  EXPECT_EQ(tokenizer.bos_token_id(), 2);
  EXPECT_EQ(tokenizer.eos_token_id(), 106);
  EXPECT_EQ(tokenizer.pad_token_id(), -1);
  EXPECT_EQ(tokenizer.pad_token(), "");
  for (const auto* bad :
       {R"({"bos_token": "no such token"})", R"({"bos_token": 2})", "{"}) {
    std::ofstream(config) << bad;
    EXPECT_THROW(Tokenizer::from_pretrained(path), DataError) << bad;
  }
  fs::remove(config);
  EXPECT_EQ(Tokenizer::from_pretrained(path).bos_token_id(), -1);
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
      {"<0xE6>", [](json& v) { v["model"]["vocab"].erase("<0xE6>"); }},
      {"another id", [](json& v) { v["added_tokens"][0]["id"] = 1000; }},
      {"not a token id",
       [](json& v) { v["model"]["vocab"]["huge"] = 1LL << 40; }},
      {"not a token id", [](json& v) { v["model"]["vocab"]["x"] = 2.5; }},
      {"not a token id", [](json& v) { v["added_tokens"][0]["id"] = -1; }},
      {"Regex",
       [](json& v) { v["pre_tokenizer"]["pattern"] = {{"Regex", "x"}}; }},
      {"invert", [](json& v) { v["pre_tokenizer"]["invert"] = true; }},
      {"StripAccents",
       [](json& v) {
         v["normalizer"] = {
             {"type", "Sequence"},
             {"normalizers", json::array({{{"type", "StripAccents"}}})}};
       }},
      {"new_option", [](json& v) { v["model"]["new_option"] = true; }},
      {"new_part", [](json& v) { v["new_part"] = true; }},
      {"decoder", [](json& v) { v.erase("decoder"); }},
      {"nested deeper",
       [](json& v) {
         for (int i = 0; i < 100; ++i) {
           v["normalizer"] = {
               {"type", "Sequence"},
               {"normalizers", json::array({v["normalizer"]})}};
         }
       }},
      {"not a token id",
       [](json& v) { v["model"]["vocab"]["x"] = UINT64_MAX; }},
      {"not a token id", [](json& v) { v["model"]["vocab"]["x"] = nullptr; }},
      {"not a token id",
       [](json& v) { v["model"]["vocab"]["x"] = json::array(); }},
      {"not a token id",
       [](json& v) { v["added_tokens"][0]["id"] = UINT64_MAX; }},
      {"\"the same id\" have the same id 7",
       [](json& v) { v["model"]["vocab"]["the same id"] = 7; }},
      {"the same id or the same text",
       [](json& v) { v["added_tokens"][0]["content"] = "other text"; }},
      {"expected a pair of tokens",
       [](json& v) { v["model"]["merges"][0] = {"a", "b", "c"}; }},
      {"expected a pair of tokens",
       [](json& v) { v["model"]["merges"][0] = {"a"}; }},
      {"expected a pair of tokens",
       [](json& v) { v["model"]["merges"][0] = 3; }},
      {"must be an object",
       [](json& v) { v["model"]["vocab"] = json::array(); }},
      {"times as long",
       [](json& v) {
         auto steps = json::array();
         for (int i = 0; i < 40; ++i) {
           steps.push_back(
               {{"type", "Replace"},
                {"pattern", {{"String", "a"}}},
                {"content", "aa"}});
         }
         v["normalizer"] = {{"type", "Sequence"}, {"normalizers", steps}};
       }},
      {"vocab", [](json& v) { v["model"].erase("vocab"); }},
      {"merges", [](json& v) { v["model"]["merges"] = "x"; }},
  };
  for (const auto& [name, edit] : table) {
    const auto path = edited(edit);
    try {
      Tokenizer::from_pretrained(path);
      ADD_FAILURE() << name << " was taken";
    } catch (const DataError& e) {
      const std::string message = e.what_without_backtrace();
      EXPECT_NE(message.find(name), std::string::npos) << message;
      EXPECT_NE(message.find(path.string()), std::string::npos) << message;
    }
  }
  EXPECT_THROW(Tokenizer::from_pretrained("no such folder"), DataError);
}

/// Names that have the same `std::hash` in libstdc++, which is MurmurHash64A
/// with a known seed: any 8 bytes have a next 8 that lead to the same state.
std::vector<std::string> names_of_equal_hash(size_t count) {
  constexpr uint64_t kFactor = 0xc6a4a7935bd1e995, kSeed = 0xc70f6907;
  constexpr uint64_t kInverse = 0x5f7a0ea7e59b19bd;
  static_assert(kFactor * kInverse == 1);
  const auto mix = [](uint64_t value) { return value ^ (value >> 47); };
  std::mt19937_64 random(1);
  std::set<std::string> names;
  while (names.size() < count) {
    uint64_t blocks[2] = {};
    for (int i = 0; i < 8; ++i) {
      blocks[0] = (blocks[0] << 8) | (uint64_t{'a'} + random() % 26);
    }
    const auto state =
        (kSeed ^ (16 * kFactor) ^ (mix(blocks[0] * kFactor) * kFactor)) *
        kFactor;
    blocks[1] = mix(state * kInverse) * kInverse;
    const std::string name(reinterpret_cast<const char*>(blocks), 16);
    if (std::ranges::all_of(
            name, [](char c) { return c >= ' ' && c <= '~'; })) {
      names.insert(name);
    }
  }
  return {names.begin(), names.end()};
}

// A table whose hash function is known would grow without end.
TEST(Tokenizer, TokensOfEqualHashesAreReadLikeOthers) {
#ifndef __GLIBCXX__
  GTEST_SKIP() << "names of equal hash are known for libstdc++";
#endif
  const auto names = names_of_equal_hash(200);
  ASSERT_EQ(
      std::hash<std::string>()(names[0]), std::hash<std::string>()(names[1]));
  const auto path = edited([&](json& v) {
    for (size_t i = 0; i < names.size(); ++i) {
      v["model"]["vocab"][names[i]] = (1 << 20) + i;
    }
  });
  const auto tokenizer = Tokenizer::from_pretrained(path);
  for (size_t i = 0; i < names.size(); ++i) {
    EXPECT_EQ(tokenizer.token_to_id(names[i]), (1 << 20) + i);
  }
}

TEST(Tokenizer, MemoryFollowsTheNumberOfTokensNotTheirIds) {
  static constexpr int64_t kLast = (int64_t{1} << 31) - 1;
  const auto tokenizer = Tokenizer::from_pretrained(edited([](json& v) {
    v["model"]["vocab"]["far away"] = 1 << 24;
    v["added_tokens"].push_back(v["added_tokens"][0]);
    v["added_tokens"].back()["content"] = "<last>";
    v["added_tokens"].back()["id"] = kLast;
  }));
  EXPECT_EQ(tokenizer.vocab_size(), kLast + 1);
  EXPECT_EQ(tokenizer.token_to_id("far away"), 1 << 24);
  EXPECT_EQ(tokenizer.id_to_token(1 << 24), "far away");
  EXPECT_EQ(tokenizer.id_to_token((1 << 24) + 1), "");
  EXPECT_EQ(tokenizer.encode("<last>"), std::vector<int64_t>{kLast});
  EXPECT_EQ(tokenizer.decode({kLast}), "<last>");
}

double time_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::clock(); // CPU time: others may use the machine
    EXPECT_GT(tokenizer.encode(text).size(), text.size() / 10);
    best = std::min(best, static_cast<double>(std::clock() - begin));
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
      time_to_encode(tokenizer, text), 10 * time_to_encode(tokenizer, quarter));
}

} // namespace
} // namespace torchlora
