#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace torchlora::detail {

/// A hash table of small entries in one block of memory, for a number of
/// entries that is known before the first. At most half of its places are
/// taken, so a search ends after a few. A default `Entry` is free
/// (`is_free()`).
template <class Entry>
class FlatTable {
 public:
  explicit FlatTable(size_t max_entries = 0)
      : places_(std::bit_ceil(2 * max_entries)) {}

  /// Returns the place of the entry with this hash for which `is_it` holds, or
  /// the free place where it belongs.
  template <class IsIt>
  size_t find(uint64_t hash, const IsIt& is_it) const {
    const auto mask = places_.size() - 1;
    auto place = hash & mask;
    while (!places_[place].is_free() && !is_it(places_[place])) {
      place = (place + 1) & mask;
    }
    return place;
  }
  Entry& operator[](size_t place) {
    return places_[place];
  }
  const Entry& operator[](size_t place) const {
    return places_[place];
  }

 private:
  std::vector<Entry> places_;
};

} // namespace torchlora::detail
