#pragma once

#include <filesystem>
#include <map>
#include <set>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"

namespace torchlora::detail {

struct Replacement {
  std::string from, to;
};

/// One step of the decoder.
struct DecodeStep {
  enum Kind { kReplace, kByteFallback, kFuse } kind;
  Replacement replacement;
};

/// The contents of a tokenizer.json.
struct TokenizerJson {
  Bpe bpe;
  AddedTokens added_tokens;
  std::map<std::string, int64_t, std::less<>> added_ids;
  std::map<int64_t, std::string> added_texts;
  std::set<int64_t> special_ids;
  std::vector<Replacement> normalizer;
  /// A word ends after each occurrence of this string. Empty: the text is one
  /// word.
  std::string split_behind;
  std::vector<int64_t> prefix_ids, suffix_ids;
  std::vector<DecodeStep> decoder;
};

/// Reads a tokenizer.json. DataError names a component or an option that is not
/// implemented.
TokenizerJson read_tokenizer_json(const std::filesystem::path& path);

/// Returns "bos_token", "eos_token" and "pad_token" of a tokenizer_config.json
/// by name, as far as the file exists and has them. A value is a string or an
/// object with `content`.
std::map<std::string, std::string> read_special_tokens(
    const std::filesystem::path& tokenizer_config);

} // namespace torchlora::detail
