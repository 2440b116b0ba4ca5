#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <torchlora/export.h>

namespace torchlora {

/// A tokenizer read from a Hugging Face folder (`tokenizer.json`, and the
/// special tokens of `tokenizer_config.json`): byte-pair encoding with byte
/// fallback. A component of tokenizer.json that is not implemented is refused
/// by name (DataError). Immutable; may be used from several threads.
class TORCHLORA_API Tokenizer {
 public:
  /// `directory`, or the path of a tokenizer.json.
  static Tokenizer from_pretrained(const std::filesystem::path& directory);

  /// Token ids of `text` (UTF-8). `add_special_tokens`: those the file's
  /// post-processor adds (none for Gemma 4 -it).
  std::vector<int64_t> encode(
      std::string_view text,
      bool add_special_tokens = true) const;
  /// The text of token ids; `skip_special_tokens` leaves those out.
  std::string decode(
      const std::vector<int64_t>& ids,
      bool skip_special_tokens = false) const;

  /// How many token ids there are, added tokens included.
  int64_t vocab_size() const;
  /// -1 if there is no such token.
  int64_t token_to_id(std::string_view token) const;
  /// The token as tokenizer.json has it. ValueError if the id is none.
  std::string id_to_token(int64_t id) const;

  /// @{
  /// Special tokens by tokenizer_config.json; -1 and "" if it names none.
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
