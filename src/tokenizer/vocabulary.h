#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/flat_table.h"
#include "tokenizer/seeded_hash.h"

namespace torchlora::detail {

/// The tokens of a tokenizer with their ids. Its memory follows the number of
/// tokens, whatever their ids are. The bytes of all tokens lie in one buffer.
class Vocabulary {
 public:
  /// `bytes` is the number of bytes that all texts together may have; `where`
  /// begins every message.
  Vocabulary(size_t bytes, std::string where);
  Vocabulary(Vocabulary&&) = default;
  Vocabulary& operator=(Vocabulary&&) = default;

  /// Copies a text into the buffer. The result is valid as long as this object
  /// or what it was moved to.
  std::string_view keep(std::string_view text);
  /// Adds a token, a text that `keep` returned.
  void add(std::string_view token, uint32_t id) {
    tokens_.push_back({id, token});
  }
  /// Makes the tables after the last token. DataError if two tokens have one id
  /// or one token comes twice.
  void finish();

  std::optional<uint32_t> id_of(std::string_view token) const;
  /// Returns nothing if no token has the id.
  std::optional<std::string_view> token_of(int64_t id) const;
  /// Returns the highest id + 1.
  int64_t end_of_ids() const {
    return tokens_.empty() ? 0 : int64_t{tokens_.back().id} + 1;
  }

 private:
  struct Token {
    uint32_t id;
    std::string_view text;
  };

  /// A token with its id. `text` is the bytes of a token of up to 8, as the
  /// search for it would otherwise wait for memory twice, and the address of a
  /// longer one.
  struct Entry {
    static constexpr uint32_t kFree = UINT32_MAX;

    bool is_free() const {
      return id == kFree;
    }
    uint64_t text = 0;
    uint32_t size = 0;
    uint32_t id = kFree;
  };
  static Entry entry_of(std::string_view text, uint32_t id);
  /// Returns the place of `token` in `ids_`.
  size_t find(std::string_view token) const;

  std::string where_;
  std::vector<char> bytes_;
  SeededHash hash_;
  FlatTable<Entry> ids_;
  /// In the order of their ids.
  std::vector<Token> tokens_;
};

} // namespace torchlora::detail
