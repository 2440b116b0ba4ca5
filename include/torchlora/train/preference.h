#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>

namespace torchlora::train {

/// A tokenized pair; the rows are prompt + chosen and prompt + rejected.
struct PreferenceTokens {
  /// @{
  /// Token ids.
  std::vector<int64_t> prompt_ids, chosen_ids, rejected_ids;
  /// @}

  /// `PreferenceExample::source`.
  std::string source;
};

/// How long rows may be. A pair is kept whole; its rows are cut when they are
/// put into a batch.
struct TORCHLORA_API RowTruncation {
  /// Rows are cut to this many tokens; nullopt: never.
  std::optional<int64_t> max_length = 1024;
  /// "keep_start": the first tokens stay, and a pair whose prompt alone
  /// fills `max_length` is dropped; "keep_end": the last tokens stay.
  std::string truncation_mode = "keep_start";

  /// ValueError names the field that cannot be right.
  void validate() const;
};

/// Figures of a tokenized data set; counts of tokens after truncation.
struct PreferenceStatistics {
  /// Kept.
  int64_t num_examples = 0;
  /// Left out: the prompt alone fills `max_length`.
  int64_t num_dropped = 0;
  /// Kept, with a row that is longer than `max_length`.
  int64_t num_truncated = 0;
  /// @{
  /// Sums over both rows of every example.
  int64_t num_tokens = 0, num_completion_tokens = 0;
  /// @}

  /// In tokens.
  int64_t longest_row = 0;
  /// Examples whose prompt lost tokens that merge with the completion.
  int64_t num_merged_prompts = 0;
};

/// A tokenized data set.
struct PreferenceTokenSet {
  /// In the order of the file.
  std::vector<PreferenceTokens> examples;
  /// Of them.
  PreferenceStatistics statistics;
};

/// Tokenizes prompt, prompt + chosen and prompt + rejected each as a whole;
/// the completions begin where the token sequences part. Standard data gets
/// the end-of-sequence token appended unless it is there and the special
/// tokens that the tokenizer adds; conversational data the chat template and
/// nothing else. TRL's `DPOTrainer._prepare_dataset`. Warns once if prompts
/// lose tokens, and of the pairs that were dropped.
///
/// DataError if nothing is left, or if a row has no token to learn from.
TORCHLORA_API PreferenceTokenSet tokenize_preferences(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const RowTruncation& truncation = {});

/// B pairs as 2B rows, all chosen ones first. `positions`, `labels` and `rows`
/// have an entry for each completion token that is predicted, row by row.
struct PreferenceBatch {
  /// [2B, T], padded on the right.
  at::Tensor input_ids;
  /// [N]: row · T + t of the hidden state that predicts the token.
  at::Tensor positions;
  /// [N]: the token.
  at::Tensor labels;
  /// [N]: its row.
  at::Tensor rows;
  /// How many of the N belong to chosen rows.
  int64_t num_chosen = 0;
  /// Tokens of all rows without padding.
  int64_t num_tokens = 0;
};

/// The batch of `examples[i]` for `i` in `indices`, on the CPU.
TORCHLORA_API PreferenceBatch collate_preferences(
    const std::vector<PreferenceTokens>& examples,
    const std::vector<int64_t>& indices,
    int64_t pad_token_id,
    const RowTruncation& truncation = {});

} // namespace torchlora::train
