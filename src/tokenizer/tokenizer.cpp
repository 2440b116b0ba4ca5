#include <torchlora/tokenizer/tokenizer.h>

#include <algorithm>
#include <charconv>

#include <torchlora/error.h>

#include "text/utf8.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/unicode.h"

namespace torchlora {
namespace fs = std::filesystem;

namespace {

constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

struct SpecialToken {
  std::string text;
  int64_t id = -1;
};

/// Returns the byte that a token `<0xXX>` stands for, or -1 for other tokens.
int byte_of(const std::string& token) {
  if (token.size() != 6 || token.compare(0, 3, "<0x") != 0 || token[5] != '>') {
    return -1;
  }
  const auto* digits = token.data() + 3;
  unsigned value = 0;
  return std::from_chars(digits, digits + 2, value, 16).ptr == digits + 2
      ? static_cast<int>(value)
      : -1;
}

/// Replaces each run of byte tokens by the text that it spells, or by one
/// U+FFFD per byte if it is not valid UTF-8.
std::vector<std::string> join_bytes(const std::vector<std::string>& tokens) {
  std::vector<std::string> joined;
  std::string bytes;
  const auto flush = [&] {
    if (detail::is_valid_utf8(bytes)) {
      joined.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) {
        joined.emplace_back(kReplacementCharacter);
      }
    }
    bytes.clear();
  };
  for (const auto& token : tokens) {
    const auto byte = byte_of(token);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
      continue;
    }
    flush();
    joined.push_back(token);
  }
  flush();
  return joined;
}

std::string concatenate(const std::vector<std::string>& pieces) {
  std::string text;
  for (const auto& piece : pieces) {
    text += piece;
  }
  return text;
}

} // namespace

struct Tokenizer::Impl {
  explicit Impl(const fs::path& path, const fs::path& config)
      : json(detail::read_tokenizer_json(path)) {
    for (const auto& [name, text] : detail::read_special_tokens(config)) {
      SpecialToken special{text, token_to_id(text)};
      TORCHLORA_CHECK_DATA(
          special.id >= 0,
          "[Tokenizer::from_pretrained] ",
          config.string(),
          ": ",
          name,
          " is \"",
          text,
          "\", which is not a token of ",
          path.string());
      (name == "bos_token"       ? bos
           : name == "eos_token" ? eos
                                 : pad) = std::move(special);
    }
  }

  int64_t token_to_id(std::string_view token) const {
    const auto added = json.added_ids.find(token);
    if (added != json.added_ids.end()) {
      return added->second;
    }
    const auto id = json.bpe.vocabulary().id_of(token);
    return id ? int64_t{*id} : -1;
  }

  int64_t vocab_size() const {
    const auto added =
        json.added_texts.empty() ? 0 : json.added_texts.rbegin()->first + 1;
    return std::max(json.bpe.vocabulary().end_of_ids(), added);
  }

  /// Returns "" for an id that no token has.
  std::string id_to_token(int64_t id) const {
    const auto added = json.added_texts.find(id);
    return added != json.added_texts.end()
        ? added->second
        : std::string(json.bpe.vocabulary().token_of(id).value_or(""));
  }

  /// Encodes a text without added tokens.
  void encode_plain(std::string_view text, std::vector<int64_t>& ids) const {
    std::string normalized(text);
    for (const auto& step : json.normalizer) {
      normalized = detail::replace_all(normalized, step.from, step.to);
    }
    std::string_view rest = normalized;
    while (!rest.empty()) {
      const auto found = json.split_behind.empty()
          ? std::string_view::npos
          : rest.find(json.split_behind);
      const auto word = rest.substr(
          0,
          found == std::string_view::npos ? rest.size()
                                          : found + json.split_behind.size());
      json.bpe.encode(word, ids);
      rest.remove_prefix(word.size());
    }
  }

  detail::TokenizerJson json;
  SpecialToken bos, eos, pad;
};

Tokenizer::Tokenizer(std::shared_ptr<const Impl> impl)
    : impl_(std::move(impl)) {}

Tokenizer Tokenizer::from_pretrained(const fs::path& directory) {
  std::error_code error;
  const auto folder =
      fs::is_directory(directory, error) ? directory : directory.parent_path();
  const auto path = fs::is_directory(directory, error)
      ? directory / "tokenizer.json"
      : directory;
  return Tokenizer(
      std::make_shared<const Impl>(path, folder / "tokenizer_config.json"));
}

std::vector<int64_t> Tokenizer::encode(
    std::string_view text,
    bool add_special_tokens) const {
  const auto& json = impl_->json;
  std::vector<int64_t> ids;
  if (add_special_tokens) {
    ids = json.prefix_ids;
  }
  size_t begin = 0;
  for (const auto& match : json.added_tokens.find_all(text)) {
    impl_->encode_plain(text.substr(begin, match.begin - begin), ids);
    ids.push_back(match.id);
    begin = match.end;
  }
  impl_->encode_plain(text.substr(begin), ids);
  if (add_special_tokens) {
    ids.insert(ids.end(), json.suffix_ids.begin(), json.suffix_ids.end());
  }
  return ids;
}

std::string Tokenizer::decode(
    const std::vector<int64_t>& ids,
    bool skip_special_tokens) const {
  std::vector<std::string> pieces;
  for (const auto id : ids) {
    if (!skip_special_tokens || impl_->json.special_ids.count(id) == 0) {
      pieces.push_back(id_to_token(id));
    }
  }
  for (const auto& step : impl_->json.decoder) {
    switch (step.kind) {
      case detail::DecodeStep::kReplace:
        for (auto& piece : pieces) {
          piece = detail::replace_all(
              piece, step.replacement.from, step.replacement.to);
        }
        break;
      case detail::DecodeStep::kByteFallback:
        pieces = join_bytes(pieces);
        break;
      case detail::DecodeStep::kFuse:
        pieces = {concatenate(pieces)};
        break;
    }
  }
  return concatenate(pieces);
}

int64_t Tokenizer::vocab_size() const {
  return impl_->vocab_size();
}

int64_t Tokenizer::token_to_id(std::string_view token) const {
  return impl_->token_to_id(token);
}

std::string Tokenizer::id_to_token(int64_t id) const {
  TORCH_CHECK_VALUE(
      id >= 0 && id < vocab_size(),
      "[Tokenizer::id_to_token] ",
      id,
      " is not a token id: the vocabulary has ",
      vocab_size(),
      " tokens");
  return impl_->id_to_token(id);
}

int64_t Tokenizer::bos_token_id() const {
  return impl_->bos.id;
}
int64_t Tokenizer::eos_token_id() const {
  return impl_->eos.id;
}
int64_t Tokenizer::pad_token_id() const {
  return impl_->pad.id;
}
const std::string& Tokenizer::bos_token() const {
  return impl_->bos.text;
}
const std::string& Tokenizer::eos_token() const {
  return impl_->eos.text;
}
const std::string& Tokenizer::pad_token() const {
  return impl_->pad.text;
}

} // namespace torchlora
