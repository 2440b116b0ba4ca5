// Input: a JSONL file of preference pairs.
#include <torchlora/models/gemma4/chat_format.h>
#include <torchlora/train/preference.h>

#include "fuzz/harness.h"

using namespace torchlora;

namespace {

/// Tokenizes the pairs and makes one batch of all.
void prepare(
    const std::vector<train::PreferenceExample>& examples,
    const train::RowTruncation& truncation) {
  static const auto tokenizer = Tokenizer::from_pretrained(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "tokenizer");
  static const gemma4::ChatFormat format;
  train::PreferenceTokenSet set;
  fuzz::accept_data_error([&] {
    set = train::tokenize_preferences(examples, tokenizer, truncation, &format);
  });
  if (set.examples.empty()) {
    return;
  }
  std::vector<int64_t> all;
  for (size_t i = 0; i < set.examples.size(); ++i) {
    all.push_back(static_cast<int64_t>(i));
  }
  const auto batch = train::collate_preferences(
      set.examples, all, tokenizer.pad_token_id(), truncation);
  fuzz::expect(
      batch.num_tokens == set.statistics.num_tokens &&
          batch.labels.numel() == set.statistics.num_completion_tokens,
      "a batch of all pairs has the tokens of the statistics");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto path = fuzz::work_folder() / "pairs.jsonl";
  fuzz::write_file(path, fuzz::Input(data, size).rest());
  std::vector<train::PreferenceExample> examples;
  fuzz::accept_data_error(
      [&] { examples = train::load_preference_dataset(path); });
  if (!examples.empty()) {
    prepare(examples, {.max_length = std::nullopt});
    prepare(examples, {.max_length = 2});
    prepare(examples, {.max_length = 9, .truncation_mode = "keep_end"});
  }
  return 0;
}
