#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace torchlora::detail {

/// Byte-pair encoding with byte fallback over a vocabulary and merges in the
/// order of their ranks.
class Bpe {
 public:
  struct Options {
    /// Empty: characters that are not in the vocabulary are dropped.
    std::string unk_token;
    bool fuse_unk = false;
    bool byte_fallback = false;
  };

  /// DataError, beginning with `where`, if the unknown token, a token of a
  /// merge or, with byte fallback, one of `<0x00>` … `<0xFF>` is not in the
  /// vocabulary.
  Bpe(std::unordered_map<std::string, int64_t> vocab,
      const std::vector<std::pair<std::string, std::string>>& merges,
      Options options,
      const std::string& where);

  /// Appends the tokens of `word`. O(n log n) in its length: merges are taken
  /// from a heap, lowest rank first, leftmost among equals.
  void encode(std::string_view word, std::vector<int64_t>& ids) const;

  const std::unordered_map<std::string, int64_t>& vocab() const {
    return vocab_;
  }

 private:
  struct Merge {
    uint32_t rank;
    uint32_t id;
  };

  std::vector<uint32_t> initial_symbols(std::string_view word) const;
  const Merge* find_merge(uint32_t left, uint32_t right) const;

  std::unordered_map<std::string, int64_t> vocab_;
  std::unordered_map<uint64_t, Merge> merges_;
  /// Ids of `<0x00>` … `<0xFF>`; empty without byte fallback.
  std::vector<uint32_t> byte_ids_;
  std::optional<uint32_t> unk_id_;
  bool fuse_unk_;
};

} // namespace torchlora::detail
