#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <torchlora/error.h>

namespace torchlora {

/// The bytes of a pickle, read from front to end. DataError, with `where` at
/// its beginning, where they end too early.
class PickleBytes {
 public:
  PickleBytes(std::string_view pickle, std::string where)
      : pickle_(pickle), where_(std::move(where)) {}

  std::string_view take(uint64_t size) {
    TORCHLORA_CHECK_DATA(
        size <= pickle_.size() - position_, where_, "the pickle is cut off");
    position_ += size;
    return pickle_.substr(position_ - size, size);
  }
  /// Reads a little-endian number without a sign.
  uint64_t number(size_t bytes) {
    uint64_t value = 0;
    size_t shift = 0;
    for (const auto c : take(bytes)) {
      value |= static_cast<uint64_t>(static_cast<unsigned char>(c)) << shift;
      shift += 8;
    }
    return value;
  }
  /// Reads a number in two's complement of at most 8 bytes.
  int64_t integer(size_t bytes) {
    const auto unused = 64 - 8 * bytes;
    return bytes == 0 ? 0
                      : static_cast<int64_t>(number(bytes) << unused) >> unused;
  }
  std::string_view line() {
    const auto end = pickle_.find('\n', position_);
    const auto text =
        take(end == std::string_view::npos ? end : end - position_);
    take(1);
    return text;
  }

  std::string_view all() const {
    return pickle_;
  }

 private:
  std::string_view pickle_;
  std::string where_;
  size_t position_ = 0;
};

} // namespace torchlora
