#include <torchlora/train/preference.h>

#include <algorithm>
#include <array>

#include <torch/types.h>

#include <torchlora/error.h>

namespace torchlora::train {

namespace {

size_t common_prefix(
    const std::vector<int64_t>& a,
    const std::vector<int64_t>& b) {
  const auto [end, _] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  return end - a.begin();
}

/// The token ids of prompt, prompt + chosen and prompt + rejected, each
/// tokenized as a whole.
struct WholeTokens {
  std::vector<int64_t> prompt, chosen, rejected;
};

WholeTokens encode_standard(
    const PreferenceExample& example,
    const Tokenizer& tokenizer) {
  TORCHLORA_CHECK_DATA(
      !tokenizer.eos_token().empty(),
      "[tokenize_preferences] the tokenizer names no eos_token, which "
      "completions that are plain text end with; set it in "
      "tokenizer_config.json");
  const auto& prompt = std::get<std::string>(example.prompt);
  const auto encode_with = [&](const Text& completion) {
    auto text = prompt + std::get<std::string>(completion);
    const auto& eos = tokenizer.eos_token();
    if (!std::get<std::string>(completion).ends_with(eos)) {
      text += eos;
    }
    return tokenizer.encode(text);
  };
  return {
      tokenizer.encode(prompt),
      encode_with(example.chosen),
      encode_with(example.rejected)};
}

WholeTokens encode_conversation(
    const PreferenceExample& example,
    const Tokenizer& tokenizer,
    const ChatFormat& chat_format) {
  const auto encode = [&](const Text* completion) {
    auto messages = std::get<std::vector<ChatMessage>>(example.prompt);
    if (completion) {
      const auto& more = std::get<std::vector<ChatMessage>>(*completion);
      messages.insert(messages.end(), more.begin(), more.end());
    }
    return chat_format.encode(
        tokenizer, messages, /*add_generation_prompt=*/completion == nullptr);
  };
  try {
    return {
        encode(nullptr), encode(&example.chosen), encode(&example.rejected)};
  } catch (const DataError& error) {
    TORCHLORA_CHECK_DATA(
        false, example.source, ": ", error.what_without_backtrace());
  }
}

/// Checks that there is a chat format, and that the tokenizer has its tokens,
/// if any example is a conversation.
void check_chat_format(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const ChatFormat* chat_format) {
  const auto conversation =
      std::ranges::find_if(examples, &PreferenceExample::is_conversational);
  if (conversation == examples.end()) {
    return;
  }
  TORCH_CHECK_VALUE(
      chat_format,
      "[tokenize_preferences] ",
      conversation->source,
      " is a conversation, and only a chat format says how the model writes "
      "one; pass the model's ChatFormat (torchlora/tokenizer/chat_format.h), "
      "or data whose prompt, chosen and rejected are strings");
  chat_format->check_tokenizer(tokenizer);
}

/// One row of a pair after truncation. `begin` and `end` are positions in
/// prompt
/// + completion; the tokens are not copied.
struct Row {
  Row(const PreferenceTokens& pair,
      const std::vector<int64_t>& completion_ids,
      const RowTruncation& truncation)
      : prompt(pair.prompt_ids), completion(completion_ids) {
    const auto whole = prompt.size() + completion.size();
    const auto length = truncation.max_length
        ? std::min<size_t>(whole, *truncation.max_length)
        : whole;
    begin = truncation.truncation_mode == "keep_start" ? 0 : whole - length;
    end = begin + length;
  }

  int64_t size() const {
    return static_cast<int64_t>(end - begin);
  }
  bool is_cut() const {
    return end - begin < prompt.size() + completion.size();
  }
  /// Returns the position in the cut row of the first completion token that has
  /// a token before it, which predicts it.
  int64_t first_scored() const {
    return static_cast<int64_t>(
        std::max(std::max(prompt.size(), begin) - begin, size_t{1}));
  }
  int64_t num_scored() const {
    return std::max<int64_t>(0, size() - first_scored());
  }
  int64_t operator[](int64_t i) const {
    const auto at = begin + static_cast<size_t>(i);
    return at < prompt.size() ? prompt[at] : completion[at - prompt.size()];
  }

  const std::vector<int64_t>&prompt, &completion;
  size_t begin, end;
};

/// Returns both rows, the chosen one first.
std::array<Row, 2> rows_of(
    const PreferenceTokens& pair,
    const RowTruncation& truncation) {
  return {
      Row(pair, pair.chosen_ids, truncation),
      Row(pair, pair.rejected_ids, truncation)};
}

bool is_dropped(const PreferenceTokens& pair, const RowTruncation& truncation) {
  return truncation.max_length && truncation.truncation_mode == "keep_start" &&
      static_cast<int64_t>(pair.prompt_ids.size()) >= *truncation.max_length;
}

void count(
    const PreferenceTokens& pair,
    const RowTruncation& truncation,
    PreferenceStatistics& statistics) {
  bool is_cut = false;
  for (const auto& row : rows_of(pair, truncation)) {
    TORCHLORA_CHECK_DATA(
        row.num_scored() > 0,
        "[tokenize_preferences] ",
        pair.source,
        ": `",
        &row.completion == &pair.chosen_ids ? "chosen" : "rejected",
        "` has no token to learn from");
    statistics.num_tokens += row.size();
    statistics.num_completion_tokens += row.num_scored();
    statistics.longest_row = std::max(statistics.longest_row, row.size());
    is_cut |= row.is_cut();
  }
  statistics.num_truncated += is_cut;
  ++statistics.num_examples;
}

} // namespace

void RowTruncation::validate() const {
  TORCH_CHECK_VALUE(
      truncation_mode == "keep_start" || truncation_mode == "keep_end",
      "[RowTruncation] truncation_mode must be keep_start or keep_end, "
      "found ",
      truncation_mode);
  TORCH_CHECK_VALUE(
      !max_length || *max_length > 1,
      "[RowTruncation] max_length must be at least 2, found ",
      *max_length);
}

PreferenceTokenSet tokenize_preferences(
    const std::vector<PreferenceExample>& examples,
    const Tokenizer& tokenizer,
    const RowTruncation& truncation,
    const ChatFormat* chat_format) {
  truncation.validate();
  check_chat_format(examples, tokenizer, chat_format);
  PreferenceTokenSet set;
  auto& statistics = set.statistics;
  for (const auto& example : examples) {
    const auto whole = example.is_conversational()
        ? encode_conversation(example, tokenizer, *chat_format)
        : encode_standard(example, tokenizer);
    const auto n = std::min(
        common_prefix(whole.prompt, whole.chosen),
        common_prefix(whole.prompt, whole.rejected));
    if (n < whole.prompt.size() && statistics.num_merged_prompts++ == 0) {
      TORCH_WARN(
          "[tokenize_preferences] ",
          example.source,
          ": the end of the prompt (\"",
          tokenizer.decode({whole.prompt.begin() + n, whole.prompt.end()}),
          "\") becomes other tokens when the completion follows, so the "
          "completion begins before it. End prompts where a token ends, not "
          "with a space. This is said once.");
    }
    PreferenceTokens pair{
        {whole.prompt.begin(), whole.prompt.begin() + n},
        {whole.chosen.begin() + n, whole.chosen.end()},
        {whole.rejected.begin() + n, whole.rejected.end()},
        example.source};
    if (is_dropped(pair, truncation)) {
      ++statistics.num_dropped;
    } else {
      count(pair, truncation, statistics);
      set.examples.push_back(std::move(pair));
    }
  }
  TORCHLORA_CHECK_DATA(
      !set.examples.empty(),
      "[tokenize_preferences] no example is left of ",
      examples.size(),
      statistics.num_dropped > 0
          ? "; every prompt alone fills max_length, raise it"
          : "");
  if (statistics.num_dropped > 0) {
    TORCH_WARN(
        "[tokenize_preferences] ",
        statistics.num_dropped,
        " of ",
        examples.size(),
        " examples were dropped: their prompt alone fills max_length ",
        *truncation.max_length);
  }
  return set;
}

PreferenceBatch collate_preferences(
    const std::vector<PreferenceTokens>& examples,
    const std::vector<int64_t>& indices,
    int64_t pad_token_id,
    const RowTruncation& truncation) {
  std::vector<Row> rows;
  for (const bool chosen : {true, false}) {
    for (const auto index : indices) {
      const auto& pair = examples.at(static_cast<size_t>(index));
      rows.emplace_back(
          pair, chosen ? pair.chosen_ids : pair.rejected_ids, truncation);
    }
  }
  PreferenceBatch batch;
  int64_t width = 0;
  for (const auto& row : rows) {
    width = std::max(width, row.size());
    batch.num_tokens += row.size();
  }
  const auto num_rows = static_cast<int64_t>(rows.size());
  batch.input_ids = at::full({num_rows, width}, pad_token_id, at::kLong);
  auto ids = batch.input_ids.accessor<int64_t, 2>();
  std::vector<int64_t> positions, labels, row_of;
  for (int64_t r = 0; r < num_rows; ++r) {
    const auto& row = rows[r];
    for (int64_t t = 0; t < row.size(); ++t) {
      ids[r][t] = row[t];
    }
    for (int64_t t = row.first_scored(); t < row.size(); ++t) {
      positions.push_back(r * width + t - 1);
      labels.push_back(row[t]);
      row_of.push_back(r);
    }
    if (r < num_rows / 2) {
      batch.num_chosen = static_cast<int64_t>(positions.size());
    }
  }
  batch.positions = at::tensor(positions, at::kLong);
  batch.labels = at::tensor(labels, at::kLong);
  batch.rows = at::tensor(row_of, at::kLong);
  return batch;
}

} // namespace torchlora::train
