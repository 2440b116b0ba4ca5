#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <torchlora/export.h>

namespace torchlora {

/// A tokenizer from a Hugging Face folder: byte-pair encoding with byte
/// fallback. Immutable, so several threads may use it.
class TORCHLORA_API Tokenizer {
 public:
  /// Reads `tokenizer.json` in `directory` and, if it exists, the special
  /// tokens in `tokenizer_config.json` beside it. `directory` may also be the
  /// path of a tokenizer.json file. DataError if tokenizer.json is missing,
  /// broken or has a component that torchlora does not support, or if
  /// tokenizer_config.json names a token that tokenizer.json does not have.
  static Tokenizer from_pretrained(const std::filesystem::path& directory);

  /// Returns the token ids of `text` (UTF-8). `add_special_tokens` adds the
  /// tokens that the post-processor of tokenizer.json puts around a text (none
  /// for Gemma 4 -it).
  std::vector<int64_t> encode(
      std::string_view text,
      bool add_special_tokens = true) const;
  /// Returns the text of the token ids `ids`. Leaves out special tokens if
  /// `skip_special_tokens` is set. ValueError if an id is out of range.
  std::string decode(
      const std::vector<int64_t>& ids,
      bool skip_special_tokens = false) const;

  /// Returns the number of token ids: the highest id + 1, added tokens
  /// included.
  int64_t vocab_size() const;
  /// Returns the id of `token` as tokenizer.json spells it, or -1 if there is
  /// no such token.
  int64_t token_to_id(std::string_view token) const;
  /// Returns the token with this id as tokenizer.json spells it. ValueError if
  /// the id is out of range.
  std::string id_to_token(int64_t id) const;

  /// @{
  /// Return the id or the text of a special token that tokenizer_config.json
  /// names; -1 or "" if it names none.
  int64_t bos_token_id() const;
  int64_t eos_token_id() const;
  int64_t pad_token_id() const;
  const std::string& bos_token() const;
  const std::string& eos_token() const;
  const std::string& pad_token() const;
  /// @}

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl);
  std::shared_ptr<const Impl> impl_;
};

} // namespace torchlora
