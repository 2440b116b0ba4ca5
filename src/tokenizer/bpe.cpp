#include "tokenizer/bpe.h"

#include <cstdio>
#include <queue>
#include <tuple>

#include <torchlora/error.h>

#include "text/utf8.h"

namespace torchlora::detail {

namespace {

constexpr int32_t kNone = -1;

} // namespace

Bpe::Bpe(
    Vocabulary vocabulary,
    const std::vector<std::pair<std::string_view, std::string_view>>& merges,
    Options options,
    const std::string& where)
    : vocabulary_(std::move(vocabulary)),
      merges_(merges.size()),
      fuse_unk_(options.fuse_unk) {
  const auto id_of = [&](std::string_view token) {
    const auto id = vocabulary_.id_of(token);
    TORCHLORA_CHECK_DATA(
        id,
        where,
        "the token \"",
        token,
        "\" (unk_token, of a merge, or a byte of byte_fallback) is not in the "
        "vocabulary");
    return *id;
  };
  std::string merged;
  for (uint32_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [first, second] = merges[rank];
    merged.assign(first).append(second);
    const auto left = id_of(first), right = id_of(second);
    merges_[find(left, right)] = {left, right, rank, id_of(merged)};
  }
  if (options.byte_fallback) {
    for (unsigned byte = 0; byte < 256; ++byte) {
      char name[8];
      std::snprintf(name, sizeof(name), "<0x%02X>", byte);
      byte_ids_.push_back(id_of(name));
    }
  }
  if (!options.unk_token.empty()) {
    unk_id_ = id_of(options.unk_token);
  }
}

size_t Bpe::find(uint32_t left, uint32_t right) const {
  return merges_.find(hash_(left, right), [&](const Merge& merge) {
    return merge.left == left && merge.right == right;
  });
}

const Bpe::Merge* Bpe::find_merge(uint32_t left, uint32_t right) const {
  const auto& merge = merges_[find(left, right)];
  return merge.is_free() ? nullptr : &merge;
}

std::vector<uint32_t> Bpe::initial_symbols(std::string_view word) const {
  std::vector<uint32_t> symbols;
  symbols.reserve(word.size());
  bool last_is_unk = false;
  for (size_t i = 0; i < word.size();) {
    const auto length = utf8_length(word, i);
    const auto character = word.substr(i, length);
    i += length;
    if (const auto id = vocabulary_.id_of(character)) {
      symbols.push_back(*id);
      last_is_unk = false;
      continue;
    }
    if (!byte_ids_.empty()) {
      for (const auto c : character) {
        symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
      }
    } else if (unk_id_ && !(fuse_unk_ && last_is_unk)) {
      symbols.push_back(*unk_id_);
      last_is_unk = true;
    }
  }
  return symbols;
}

// The symbols are a linked list (`previous`, `next`), so a merge is O(1). A
// heap has the candidate merges, lowest rank first and leftmost among equals.
// Entries are not removed when a neighbor changes: an entry is skipped if its
// pair does not have the rank any more.
void Bpe::encode(std::string_view word, std::vector<int64_t>& ids) const {
  auto symbols = initial_symbols(word);
  const auto count = static_cast<int32_t>(symbols.size());
  std::vector<int32_t> previous(symbols.size()), next(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    previous[i] = i - 1;
    next[i] = i + 1 < count ? i + 1 : kNone;
  }
  constexpr auto kMerged = UINT32_MAX;

  using Candidate = std::tuple<uint32_t, int32_t>; // rank, position
  std::vector<Candidate> heap_storage;
  const auto candidate = [&](int32_t i) -> const Merge* {
    return i != kNone && next[i] != kNone
        ? find_merge(symbols[i], symbols[next[i]])
        : nullptr;
  };
  for (int32_t i = 0; i < count; ++i) {
    if (const auto* merge = candidate(i)) {
      heap_storage.emplace_back(merge->rank, i);
    }
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap(
      std::greater<>(), std::move(heap_storage));

  while (!heap.empty()) {
    const auto [rank, i] = heap.top();
    heap.pop();
    if (symbols[i] == kMerged) {
      continue;
    }
    const auto* merge = candidate(i);
    if (!merge || merge->rank != rank) {
      continue;
    }
    const auto right = next[i];
    symbols[i] = merge->id;
    symbols[right] = kMerged;
    next[i] = next[right];
    if (next[i] != kNone) {
      previous[next[i]] = i;
    }
    for (const auto changed : {previous[i], i}) {
      if (const auto* following = candidate(changed)) {
        heap.emplace(following->rank, changed);
      }
    }
  }
  for (const auto symbol : symbols) {
    if (symbol != kMerged) {
      ids.push_back(symbol);
    }
  }
}

} // namespace torchlora::detail
