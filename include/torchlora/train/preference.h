#pragma once

#include <optional>

#include <torchlora/tensor.h>

#include <torchlora/tokenizer/chat_format.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>

namespace torchlora::train {

/// A pair as token ids. Its two rows are prompt + chosen and prompt + rejected.
struct PreferenceTokens {
  std::vector<int64_t> prompt_ids, chosen_ids, rejected_ids;
  /// `PreferenceExample::source`.
  std::string source;
};

/// Limits the length of rows. Pairs keep all their tokens;
/// `collate_preferences` cuts the rows.
struct TORCHLORA_API RowTruncation {
  /// The longest row in tokens. nullopt: rows are never cut.
  std::optional<int64_t> max_length = 1024;
  /// Which tokens of a long row stay. "keep_start": the first ones; a pair
  /// whose prompt alone fills `max_length` is dropped. "keep_end": the last
  /// ones.
  std::string truncation_mode = "keep_start";

  /// ValueError names the field that cannot be right.
  void validate() const;
};

/// Counts of a tokenized data set. Token counts are those after truncation,
/// over both rows of every example.
struct PreferenceStatistics {
  /// The examples that were kept.
  int64_t num_examples = 0;
  /// The examples that were left out because the prompt alone fills
  /// `max_length`.
  int64_t num_dropped = 0;
  /// The kept examples with a row that is longer than `max_length`.
  int64_t num_truncated = 0;
  int64_t num_tokens = 0, num_completion_tokens = 0;
  /// The length of the longest row in tokens.
  int64_t longest_row = 0;
  /// The examples whose prompt lost tokens that merge with the completion.
  int64_t num_merged_prompts = 0;
};

/// A tokenized data set. The examples have the order of the file.
struct PreferenceTokenSet {
  std::vector<PreferenceTokens> examples;
  PreferenceStatistics statistics;
};

/// Tokenizes the data set as TRL's `DPOTrainer._prepare_dataset` does: prompt,
/// prompt + chosen and prompt + rejected are each tokenized as a whole, and the
/// completion begins where the token sequences differ.
///
/// Strings get the special tokens that the tokenizer adds and, unless they end
/// with it already, the end-of-sequence token. Conversations get the text of
/// `chat_format` and nothing else. Warns once if prompts lose tokens, and once
/// about the pairs that were dropped.
///
/// ValueError for conversations without a chat format. DataError if nothing is
/// left, if a row has no token to learn from, or if the tokenizer lacks a token
/// of the chat format.
TORCHLORA_API PreferenceTokenSet tokenize_preferences(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const RowTruncation& truncation = {},
    const ChatFormat* chat_format = nullptr);

/// B pairs as 2B rows, all chosen rows first. `positions`, `labels` and `rows`
/// have one entry per completion token that is predicted, row by row.
struct PreferenceBatch {
  /// [2B, T], padded on the right.
  Tensor input_ids;
  /// [N]: row · T + t, the place of the hidden state that predicts the token.
  Tensor positions;
  /// [N]: the token ids.
  Tensor labels;
  /// [N]: the row of each token.
  Tensor rows;
  /// How many of the N tokens are in chosen rows.
  int64_t num_chosen = 0;
  /// The number of tokens in all rows without padding.
  int64_t num_tokens = 0;
};

/// Makes the batch of `examples[i]` for `i` in `indices`, on the CPU.
TORCHLORA_API PreferenceBatch collate_preferences(
    const std::vector<PreferenceTokens>& examples,
    const std::vector<int64_t>& indices,
    int64_t pad_token_id,
    const RowTruncation& truncation = {});

} // namespace torchlora::train
