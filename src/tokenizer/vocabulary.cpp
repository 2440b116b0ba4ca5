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
  ids_ = FlatTable<Entry>(tokens_.size());
  const Token* last = nullptr;
  for (const auto& token : tokens_) {
    auto& entry = ids_[find(token.text)];
    TORCHLORA_CHECK_DATA(
        entry.is_free(),
        where_,
        "the token \"",
        token.text,
        "\" is there twice, with the ids ",
        entry.id,
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
    entry = entry_of(token.text, token.id);
    last = &token;
  }
}

Vocabulary::Entry Vocabulary::entry_of(std::string_view text, uint32_t id) {
  Entry entry{0, static_cast<uint32_t>(text.size()), id};
  if (text.size() <= sizeof(entry.text)) {
    text.copy(reinterpret_cast<char*>(&entry.text), sizeof(entry.text));
  } else {
    entry.text = reinterpret_cast<uintptr_t>(text.data());
  }
  return entry;
}

size_t Vocabulary::find(std::string_view token) const {
  const auto sought = entry_of(token, 0);
  return ids_.find(hash_(token), [&](const Entry& entry) {
    return entry.size == sought.size &&
        (entry.text == sought.text ||
         (token.size() > sizeof(entry.text) &&
          token ==
              std::string_view(
                  reinterpret_cast<const char*>(entry.text), entry.size)));
  });
}

std::optional<uint32_t> Vocabulary::id_of(std::string_view token) const {
  const auto& entry = ids_[find(token)];
  return entry.is_free() ? std::nullopt : std::optional(entry.id);
}

std::optional<std::string_view> Vocabulary::token_of(int64_t id) const {
  const auto found = std::ranges::lower_bound(
      tokens_, id, {}, [](const Token& token) { return int64_t{token.id}; });
  return found == tokens_.end() || found->id != id ? std::nullopt
                                                   : std::optional(found->text);
}

} // namespace torchlora::detail
