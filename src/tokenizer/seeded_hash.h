#pragma once

#include <algorithm>
#include <cstdint>
#include <random>
#include <string_view>

namespace torchlora::detail {

/// A hash function drawn at random. Who makes a file does not know which, so no
/// file has keys of equal hashes on purpose: a table of them would take
/// quadratic time, or memory without end.
///
/// The bytes of a key are the coefficients of a polynomial modulo the prime
/// 2^61 - 1, and its hash is the value at a random point. Two keys of up to 7 n
/// bytes have equal hashes with a probability of about n / 2^61.
class SeededHash {
 public:
  SeededHash() : x_(random_number()), y_(random_number()) {}

  uint64_t operator()(std::string_view text) const {
    constexpr size_t kChunk = 7; // bytes that are less than the prime
    uint64_t hash = text.size();
    for (size_t begin = 0; begin < text.size(); begin += kChunk) {
      const auto end = std::min(begin + kChunk, text.size());
      uint64_t chunk = 0;
      for (auto i = begin; i < end; ++i) {
        chunk = (chunk << 8) | static_cast<unsigned char>(text[i]);
      }
      hash = combine(hash, chunk);
    }
    return spread(hash);
  }
  uint64_t operator()(uint32_t first, uint32_t second) const {
    return spread(combine(first, second));
  }

 private:
  static constexpr uint64_t kPrime = (uint64_t{1} << 61) - 1;

  static uint64_t random_number() {
    std::random_device random;
    return ((uint64_t{random()} << 32) | random()) & kPrime;
  }
  /// Returns a x + b y modulo the prime, not always its least value.
  uint64_t combine(uint64_t a, uint64_t b) const {
    using Wide = unsigned __int128;
    const auto value = Wide{a} * x_ + Wide{b} * y_;
    // 2^61 is 1 modulo the prime.
    const auto sum = static_cast<uint64_t>(value & kPrime) +
        static_cast<uint64_t>(value >> 61);
    return (sum & kPrime) + (sum >> 61);
  }
  /// Lets every bit depend on every bit: a table takes the lowest ones.
  static uint64_t spread(uint64_t hash) {
    hash = (hash ^ (hash >> 32)) * 0x9e3779b97f4a7c15;
    return hash ^ (hash >> 32);
  }

  uint64_t x_, y_;
};

} // namespace torchlora::detail
