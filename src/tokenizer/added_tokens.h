#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace torchlora::detail {

/// Finds added tokens, which are cut out of a text before it is normalized: the
/// leftmost match first, and the longest of those that begin at the same place.
/// A trie over bytes.
class AddedTokens {
 public:
  struct Match {
    size_t begin, end;
    int64_t id;
  };

  void insert(const std::string& content, int64_t id);
  /// Returns all matches in `text`, left to right.
  std::vector<Match> find_all(std::string_view text) const;

 private:
  struct Node {
    std::unordered_map<char, uint32_t> next;
    int64_t id = -1;
  };
  std::vector<Node> nodes_{Node()};
};

} // namespace torchlora::detail
