#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace torchlora::detail {

/// Byte-pair encoding: begins with the characters of a word and merges the
/// adjacent pair with the lowest rank until no pair has a merge. A character
/// that is not in the vocabulary becomes its bytes (byte fallback) or the
/// unknown token.
class Bpe {
 public:
  struct Options {
    /// Empty: drops characters that are not in the vocabulary.
    std::string unk_token;
    bool fuse_unk = false;
    bool byte_fallback = false;
  };

  /// `merges` are in the order of their ranks. DataError, beginning with
  /// `where`, if the vocabulary lacks the unknown token, a token of a merge or,
  /// with byte fallback, one of `<0x00>` … `<0xFF>`.
  Bpe(Vocabulary vocabulary,
      const std::vector<std::pair<std::string_view, std::string_view>>& merges,
      Options options,
      const std::string& where);

  /// Appends the token ids of `word` to `ids`. O(n log n) in the length of the
  /// word.
  void encode(std::string_view word, std::vector<int64_t>& ids) const;

  const Vocabulary& vocabulary() const {
    return vocabulary_;
  }

 private:
  struct Merge {
    static constexpr uint32_t kFree = UINT32_MAX;

    bool is_free() const {
      return id == kFree;
    }
    uint32_t left = 0, right = 0;
    uint32_t rank = 0;
    uint32_t id = kFree;
  };

  std::vector<uint32_t> initial_symbols(std::string_view word) const;
  /// Returns the place of a pair in `merges_`.
  size_t find(uint32_t left, uint32_t right) const;
  const Merge* find_merge(uint32_t left, uint32_t right) const;

  Vocabulary vocabulary_;
  SeededHash hash_;
  FlatTable<Merge> merges_;
  /// The ids of `<0x00>` … `<0xFF>`. Empty without byte fallback.
  std::vector<uint32_t> byte_ids_;
  std::optional<uint32_t> unk_id_;
  bool fuse_unk_;
};

} // namespace torchlora::detail
