#pragma once

#include <optional>

#include <torchlora/types.h>

#include <torchlora/tokenizer/chat_format.h>
#include <torchlora/tokenizer/tokenizer.h>
#include <torchlora/train/dataset.h>

namespace torchlora::train {

/// A preference pair as token ids. A pair has two rows: the prompt followed by
/// the chosen completion, and the prompt followed by the rejected one.
struct PreferenceTokens {
  std::vector<int64_t> prompt_ids, chosen_ids, rejected_ids;
  /// Where the pair comes from, for error messages
  /// (`PreferenceExample::source`).
  std::string source;
};

/// A limit on the length of rows (a row is a prompt and one completion).
/// `tokenize_preferences` keeps all tokens of a pair; `collate_preferences`
/// cuts its rows.
struct TORCHLORA_API RowTruncation {
  /// The greatest length of a row in tokens. nullopt: rows are never cut.
  std::optional<int64_t> max_length = 1024;
  /// Which tokens of a row longer than `max_length` stay. "keep_start": the
  /// first ones; `tokenize_preferences` then drops a pair whose prompt alone
  /// fills `max_length`. "keep_end": the last ones.
  std::string truncation_mode = "keep_start";

  /// Checks both fields. ValueError names the field with an invalid value.
  void validate() const;
};

/// Statistics of a tokenized data set. Numbers of tokens count both rows of
/// every pair, after rows are cut to `max_length`.
struct PreferenceStatistics {
  /// The number of pairs in the tokenized data set, without dropped ones.
  int64_t num_examples = 0;
  /// The number of pairs that `tokenize_preferences` dropped because the prompt
  /// alone fills `max_length`. Only the mode "keep_start" drops pairs.
  int64_t num_dropped = 0;
  /// The number of pairs in the tokenized data set with a row longer than
  /// `max_length`, which is cut.
  int64_t num_truncated = 0;
  int64_t num_tokens = 0, num_completion_tokens = 0;
  /// The length of the longest row in tokens, after rows are cut to
  /// `max_length`.
  int64_t longest_row = 0;
  /// The number of pairs in which the end of the prompt becomes other tokens
  /// when a completion follows. The completion of such a pair begins before the
  /// end of the prompt's text. Dropped pairs count.
  int64_t num_merged_prompts = 0;
};

/// A tokenized data set. The pairs have the order of the file.
struct PreferenceTokenSet {
  std::vector<PreferenceTokens> examples;
  PreferenceStatistics statistics;
};

/// Tokenizes preference pairs as TRL's `DPOTrainer._prepare_dataset` does:
/// prompt, prompt + chosen and prompt + rejected, each as a whole. Both
/// completions begin at the first token where either row differs from the
/// tokenized prompt. Strings get the special tokens that the tokenizer adds
/// and, unless they end with it already, the end-of-sequence token.
/// Conversations get the text of `chat_format` and nothing else.
///
/// Warns once if the end of a prompt becomes other tokens when a completion
/// follows; the completion then begins earlier. Drops a pair, with one warning
/// for all, if the mode is "keep_start" and the prompt alone fills
/// `max_length`.
///
/// ValueError for an invalid `truncation`, or for conversations without a chat
/// format. DataError if no pair is left, if a row has no token to learn from,
/// or if the tokenizer lacks a token of the chat format or an end-of-sequence
/// token.
TORCHLORA_API PreferenceTokenSet tokenize_preferences(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const RowTruncation& truncation = {},
    const ChatFormat* chat_format = nullptr);

/// A batch of B pairs as 2B rows, all chosen rows first. `positions`, `labels`
/// and `rows` have one entry for each of the N completion tokens that the model
/// predicts, row by row.
struct PreferenceBatch {
  /// The token ids [2B, T] of B chosen rows and then B rejected rows, padded on
  /// the right to the longest row, T tokens.
  Tensor input_ids;
  /// Where the model predicts each of the N completion tokens, [N]: row · T +
  /// t, where t is the place before the token in `input_ids` [2B, T].
  Tensor positions;
  /// The ids of the N completion tokens that the model predicts: [N].
  Tensor labels;
  /// The row of `input_ids` to which each of the N completion tokens belongs:
  /// [N].
  Tensor rows;
  /// How many of the N completion tokens belong to chosen rows. They come
  /// first.
  int64_t num_chosen = 0;
  /// The number of tokens in all rows, without padding.
  int64_t num_tokens = 0;
};

/// Returns the batch of the pairs `examples[i]` for each `i` in `indices`, on
/// the CPU. Cuts rows by `truncation` and pads them with `pad_token_id` on the
/// right.
TORCHLORA_API PreferenceBatch collate_preferences(
    const std::vector<PreferenceTokens>& examples,
    const std::vector<int64_t>& indices,
    int64_t pad_token_id,
    const RowTruncation& truncation = {});

} // namespace torchlora::train
