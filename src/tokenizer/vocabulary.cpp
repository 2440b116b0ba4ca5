#include "tokenizer/vocabulary.h"

#include <algorithm>

#include <c10/util/Exception.h>

#include <torchlora/error.h>

namespace torchlora::detail {

Vocabulary::Vocabulary(size_t bytes, std::string where)
    : where_(std::move(where)) {
  bytes_.reserve(bytes);
}

std::string_view Vocabulary::keep(std::string_view text) {
  // A larger buffer would be another one.
  TORCH_INTERNAL_ASSERT(bytes_.size() + text.size() <= bytes_.capacity());
  const auto begin = bytes_.size();
  bytes_.insert(bytes_.end(), text.begin(), text.end());
  return {bytes_.data() + begin, text.size()};
}

void Vocabulary::finish() {
  if (!std::ranges::is_sorted(tokens_, {}, &Token::id)) {
    std::ranges::stable_sort(tokens_, {}, &Token::id);
  }
  ids_.reserve(tokens_.size());
  const Token* last = nullptr;
  for (const auto& token : tokens_) {
    const auto [known, is_new] = ids_.emplace(token.text, token.id);
    TORCHLORA_CHECK_DATA(
        is_new,
        where_,
        "the token \"",
        token.text,
        "\" is there twice, with the ids ",
        known->second,
        " and ",
        token.id);
    TORCHLORA_CHECK_DATA(
        !last || last->id != token.id,
        where_,
        "the tokens \"",
        last ? last->text : "",
        "\" and \"",
        token.text,
        "\" have the same id ",
        token.id);
    last = &token;
  }
}

std::optional<uint32_t> Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string_view> Vocabulary::token_of(int64_t id) const {
  const auto found = std::ranges::lower_bound(
      tokens_, id, {}, [](const Token& token) { return int64_t{token.id}; });
  return found == tokens_.end() || found->id != id ? std::nullopt
                                                   : std::optional(found->text);
}

} // namespace torchlora::detail
