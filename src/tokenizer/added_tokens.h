#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace torchlora::detail {

/// Finds the tokens that are taken out of a text before anything else is done
/// with it: the leftmost one, and the longest among those that begin there.
class AddedTokens {
 public:
  struct Match {
    size_t begin, end;
    int64_t id;
  };

  void insert(const std::string& content, int64_t id);
  /// All matches in `text`, left to right.
  std::vector<Match> find_all(std::string_view text) const;

 private:
  struct Node {
    std::unordered_map<char, uint32_t> next;
    int64_t id = -1;
  };
  std::vector<Node> nodes_{Node()};
};

} // namespace torchlora::detail
