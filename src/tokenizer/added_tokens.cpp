#include "tokenizer/added_tokens.h"

namespace torchlora::detail {

void AddedTokens::insert(const std::string& content, int64_t id) {
  uint32_t node = 0;
  for (const auto c : content) {
    const auto [found, is_new] =
        nodes_[node].next.try_emplace(c, static_cast<uint32_t>(nodes_.size()));
    node = found->second;
    if (is_new) {
      nodes_.emplace_back();
    }
  }
  nodes_[node].id = id;
}

std::vector<AddedTokens::Match> AddedTokens::find_all(
    std::string_view text) const {
  std::vector<Match> matches;
  for (size_t begin = 0; begin < text.size();) {
    Match longest{begin, begin, -1};
    uint32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      const auto found = nodes_[node].next.find(text[i]);
      if (found == nodes_[node].next.end()) {
        break;
      }
      node = found->second;
      if (nodes_[node].id >= 0) {
        longest = {begin, i + 1, nodes_[node].id};
      }
    }
    if (longest.id >= 0) {
      matches.push_back(longest);
    }
    begin = longest.id >= 0 ? longest.end : begin + 1;
  }
  return matches;
}

} // namespace torchlora::detail
