#pragma once

#include <cstdint>
#include <random>
#include <string_view>

namespace torchlora::detail {

/// A hash function drawn at random. Who makes a file does not know which, so no
/// file has keys of equal hashes on purpose: a table of them would take
/// quadratic time, or memory without end.
///
/// The bytes of a key are a polynomial modulo the prime 2^61 - 1, and its hash
/// is the value at a random point. Two keys of up to 7 n bytes have equal
/// hashes with a probability of about n / 2^61.
class SeededHash {
 public:
  SeededHash() {
    std::random_device random;
    point_ = ((uint64_t{random()} << 32) | random()) & kPrime;
  }

  uint64_t operator()(std::string_view text) const {
    uint64_t hash = text.size();
    for (size_t i = 0; i < text.size(); i += kChunk) {
      uint64_t chunk = 0;
      text.copy(reinterpret_cast<char*>(&chunk), kChunk, i);
      hash = times_point(hash) + chunk;
    }
    return spread(hash);
  }
  uint64_t operator()(uint32_t first, uint32_t second) const {
    return spread(times_point(first) + second);
  }

 private:
  static constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;
  /// Bytes that are less than the prime.
  static constexpr size_t kChunk = 7;

  uint64_t times_point(uint64_t value) const {
    const auto product = static_cast<unsigned __int128>(value) * point_;
    // 2^61 is 1 modulo the prime.
    const auto sum = static_cast<uint64_t>(product & kPrime) +
        static_cast<uint64_t>(product >> 61);
    return (sum & kPrime) + (sum >> 61);
  }
  /// Lets every bit of the result depend on every bit of the hash: a table
  /// takes the lowest ones.
  uint64_t spread(uint64_t hash) const {
    hash = times_point(hash);
    hash = (hash ^ (hash >> 32)) * 0x9e3779b97f4a7c15;
    return hash ^ (hash >> 32);
  }

  uint64_t point_;
};

} // namespace torchlora::detail
