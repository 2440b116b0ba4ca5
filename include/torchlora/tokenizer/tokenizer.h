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
/// fallback, read from `tokenizer.json`, with the special tokens of
/// `tokenizer_config.json`. DataError names a component of tokenizer.json that
/// is not implemented. Immutable, so several threads may use it.
class TORCHLORA_API Tokenizer {
 public:
  /// Reads the tokenizer of a folder or of a tokenizer.json file.
  static Tokenizer from_pretrained(const std::filesystem::path& directory);

  /// Returns the token ids of `text` (UTF-8). `add_special_tokens` adds those
  /// of the post-processor in the file (none for Gemma 4 -it).
  std::vector<int64_t> encode(
      std::string_view text,
      bool add_special_tokens = true) const;
  /// Returns the text of token ids, without the special tokens if
  /// `skip_special_tokens`.
  std::string decode(
      const std::vector<int64_t>& ids,
      bool skip_special_tokens = false) const;

  /// Returns the number of token ids, added tokens included.
  int64_t vocab_size() const;
  /// Returns the id of a token, or -1 if there is no such token.
  int64_t token_to_id(std::string_view token) const;
  /// Returns the token as tokenizer.json spells it. ValueError if the id is out
  /// of range.
  std::string id_to_token(int64_t id) const;

  /// @{
  /// Special tokens of tokenizer_config.json. -1 and "" for tokens that it does
  /// not name.
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
