#include <torchlora/train/preference.h>

#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/models/gemma4/chat_format.h>

#include "support.h"

namespace torchlora::train {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kData = TORCHLORA_TEST_DATA;

const Tokenizer& tokenizer() {
  static const auto instance =
      Tokenizer::from_pretrained(kData / "dpo" / "model");
  return instance;
}

TEST(TokenizePreferences, EqualsTrl) {
  const auto cases =
      json::parse(std::ifstream(kData / "train" / "preference_cases.json"));
  for (const auto& c : cases) {
    SCOPED_TRACE(c["name"].get<std::string>());
    const auto path = fs::path(testing::TempDir()) / "preference_case.jsonl";
    {
      std::ofstream file(path);
      for (const auto& row : c["rows"]) {
        file << row.dump() << "\n";
      }
    }
    RowTruncation truncation;
    truncation.max_length = c["max_length"].get<int64_t>();
    const gemma4::ChatFormat chat_format;
    const auto set = tokenize_preferences(
        load_preference_dataset(path), tokenizer(), truncation, &chat_format);
    ASSERT_EQ(set.examples.size(), c["tokens"].size());
    EXPECT_EQ(
        set.statistics.num_dropped,
        static_cast<int64_t>(c["rows"].size() - c["tokens"].size()));
    if (c["name"] == "explicit" || c["name"] == "prompt_ends_with_space") {
      EXPECT_EQ(
          set.statistics.num_merged_prompts, c["name"] == "explicit" ? 0 : 1);
    }
    for (size_t i = 0; i < set.examples.size(); ++i) {
      EXPECT_EQ(c["tokens"][i]["prompt_ids"], set.examples[i].prompt_ids);
      EXPECT_EQ(c["tokens"][i]["chosen_ids"], set.examples[i].chosen_ids);
      EXPECT_EQ(c["tokens"][i]["rejected_ids"], set.examples[i].rejected_ids);
    }
  }
}

TEST(TokenizePreferences, NothingLeftIsAnError) {
  const std::vector<PreferenceExample> examples = {
      {"one two three four five six", " a", " b", "pairs.jsonl:1"}};
  EXPECT_THROW(
      tokenize_preferences(examples, tokenizer(), {2, "keep_start"}),
      DataError);
  EXPECT_THROW(tokenize_preferences({}, tokenizer()), DataError);
  EXPECT_THROW(
      tokenize_preferences(examples, tokenizer(), {2, "keep_middle"}),
      c10::ValueError);
}

const std::vector<PreferenceExample> kConversations = {
    {"one", " a", " b", "pairs.jsonl:1"},
    {std::vector<ChatMessage>{{"user", "one"}},
     std::vector<ChatMessage>{{"assistant", "a"}},
     std::vector<ChatMessage>{{"assistant", "b"}},
     "pairs.jsonl:2"}};

TEST(TokenizePreferences, ConversationsNeedAChatFormat) {
  const auto text =
      refusal([] { tokenize_preferences(kConversations, tokenizer()); });
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "pairs.jsonl:2 is a conversation", text);
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring, "pass the model's ChatFormat", text);
}

TEST(TokenizePreferences, ATokenizerWithoutTheTurnTokensIsRefusedByName) {
  const auto folder = fs::path(testing::TempDir()) / "without_turns";
  fs::create_directories(folder);
  std::ifstream original(kData / "dpo" / "model" / "tokenizer.json");
  auto file = json::parse(original);
  for (auto& token : file["added_tokens"]) {
    if (token["content"] == "<|turn>") {
      token["content"] = "<|round>";
    }
  }
  auto& vocab = file["model"]["vocab"];
  vocab["<|round>"] = vocab["<|turn>"];
  vocab.erase("<|turn>");
  std::ofstream(folder / "tokenizer.json") << file.dump();
  const auto other = Tokenizer::from_pretrained(folder);
  const gemma4::ChatFormat chat_format;
  EXPECT_PRED_FORMAT2(
      testing::IsSubstring,
      "the chat format gemma4 needs the token <|turn>",
      refusal<DataError>([&] {
        tokenize_preferences(kConversations, other, {}, &chat_format);
      }));
}

std::vector<int64_t> values(const at::Tensor& tensor) {
  const auto* data = tensor.const_data_ptr<int64_t>();
  return {data, data + tensor.numel()};
}

using Ids = std::vector<int64_t>;

const std::vector<PreferenceTokens> kPairs = {
    {{1, 2}, {3, 4, 5}, {6}, ""},
    {{7}, {8}, {9, 10}, ""}};

TEST(CollatePreferences, ChosenRowsComeFirstAndPaddingIsOnTheRight) {
  const auto batch = collate_preferences(kPairs, {0, 1}, 0);
  EXPECT_EQ(batch.input_ids.sizes(), (Ids{4, 5}));
  EXPECT_EQ(values(batch.input_ids), (Ids{1, 2, 3, 4, 5, 7, 8, 0,  0, 0,
                                          1, 2, 6, 0, 0, 7, 9, 10, 0, 0}));
  EXPECT_EQ(values(batch.labels), (Ids{3, 4, 5, 8, 6, 9, 10}));
  EXPECT_EQ(values(batch.rows), (Ids{0, 0, 0, 1, 2, 3, 3}));
  EXPECT_EQ(values(batch.positions), (Ids{1, 2, 3, 5, 11, 15, 16}));
  EXPECT_EQ(batch.num_chosen, 4);
  EXPECT_EQ(batch.num_tokens, 5 + 2 + 3 + 3);
}

TEST(CollatePreferences, CutsEitherEnd) {
  const auto start = collate_preferences(kPairs, {0}, 0, {3, "keep_start"});
  EXPECT_EQ(values(start.input_ids), (Ids{1, 2, 3, 1, 2, 6}));
  EXPECT_EQ(values(start.labels), (Ids{3, 6}));
  const auto end = collate_preferences(kPairs, {0}, 0, {3, "keep_end"});
  EXPECT_EQ(values(end.input_ids), (Ids{3, 4, 5, 1, 2, 6}));
  // The first token of a row has none before it that predicts it.
  EXPECT_EQ(values(end.labels), (Ids{4, 5, 6}));
}

} // namespace
} // namespace torchlora::train
