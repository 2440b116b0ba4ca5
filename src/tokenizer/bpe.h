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
    uint32_t rank;
    uint32_t id;
  };
  /// Spreads the bits of both ids.
  struct PairHash {
    size_t operator()(uint64_t key) const {
      return (key ^ (key >> 31)) * 0x9e3779b97f4a7c15;
    }
  };

  std::vector<uint32_t> initial_symbols(std::string_view word) const;
  const Merge* find_merge(uint32_t left, uint32_t right) const;

  Vocabulary vocabulary_;
  ska::flat_hash_map<uint64_t, Merge, PairHash> merges_;
  /// The ids of `<0x00>` … `<0xFF>`. Empty without byte fallback.
  std::vector<uint32_t> byte_ids_;
  std::optional<uint32_t> unk_id_;
  bool fuse_unk_;
};

} // namespace torchlora::detail
