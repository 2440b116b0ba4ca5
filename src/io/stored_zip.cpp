#include "io/stored_zip.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include <torchlora/error.h>

// A zip archive ends with a record that says where its directory is. The
// directory has an entry per file: name, checksum, sizes and the position of
// the file. A field of 32 bits that is too small holds all ones, and an "extra
// field" of the entry (zip64) has the value. Every position and size is checked
// against the bytes that are there before it is used.

namespace torchlora::io {
namespace {

constexpr uint32_t kEnd64Signature = 0x06064b50;
constexpr uint32_t kLocator64Signature = 0x07064b50;
constexpr uint32_t kEntrySignature = 0x02014b50;
constexpr uint32_t kFileSignature = 0x04034b50;
constexpr size_t kEndSize = 22;
constexpr size_t kLocator64Size = 20;
constexpr size_t kEntrySize = 46;
constexpr size_t kFileHeaderSize = 30;
constexpr uint16_t kZip64Extra = 1;

uint32_t crc32(std::string_view bytes) {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    table[i] = i;
    for (int bit = 0; bit < 8; ++bit) {
      table[i] = (table[i] >> 1) ^ ((table[i] & 1) != 0 ? 0xedb88320 : 0);
    }
  }
  uint32_t crc = 0xffffffff;
  for (const auto c : bytes) {
    crc = (crc >> 8) ^ table[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  }
  return ~crc;
}

/// Bytes whose every access is checked.
struct Bytes {
  std::string_view all;
  const std::string& where;

  void check(bool is_right, const char* what) const {
    TORCHLORA_CHECK_DATA(
        is_right, where, "not a whole zip archive of torch.save: ", what);
  }
  std::string_view at(uint64_t position, uint64_t size) const {
    check(
        position <= all.size() && size <= all.size() - position,
        "a position is outside of the file");
    return all.substr(position, size);
  }
  /// Reads a little-endian number.
  template <class T>
  T number(uint64_t position) const {
    T value = 0;
    const auto bytes = at(position, sizeof(T));
    for (size_t i = 0; i < sizeof(T); ++i) {
      value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
    }
    return value;
  }
};

struct Directory {
  uint64_t position, entries;
};

Directory find_directory(const Bytes& file) {
  // A comment of up to 65535 bytes may follow the record.
  const auto size = file.all.size();
  const auto tail = file.all.substr(size - std::min<size_t>(size, 65557));
  const auto found = tail.rfind(std::string_view("PK\5\6", 4));
  file.check(found != std::string_view::npos, "it has no directory");
  const uint64_t end = size - tail.size() + found;
  file.at(end, kEndSize);
  if (end >= kLocator64Size &&
      file.number<uint32_t>(end - kLocator64Size) == kLocator64Signature) {
    const auto end64 = file.number<uint64_t>(end - kLocator64Size + 8);
    file.check(
        file.number<uint32_t>(end64) == kEnd64Signature,
        "it has no zip64 record");
    return {
        file.number<uint64_t>(end64 + 48), file.number<uint64_t>(end64 + 32)};
  }
  return {file.number<uint32_t>(end + 16), file.number<uint16_t>(end + 10)};
}

/// The values of a directory entry that may be in its zip64 field.
struct Place {
  uint64_t size, stored_size, position;
};

Place place_of(const Bytes& file, uint64_t entry) {
  Place place{
      file.number<uint32_t>(entry + 24),
      file.number<uint32_t>(entry + 20),
      file.number<uint32_t>(entry + 42)};
  auto extra = entry + kEntrySize + file.number<uint16_t>(entry + 28);
  const auto extra_end = extra + file.number<uint16_t>(entry + 30);
  while (extra + 4 <= extra_end) {
    const auto kind = file.number<uint16_t>(extra);
    auto value = extra + 4;
    extra = value + file.number<uint16_t>(extra + 2);
    if (kind != kZip64Extra) {
      continue;
    }
    for (auto* field : {&place.size, &place.stored_size, &place.position}) {
      if (*field == 0xffffffff && value + 8 <= extra) {
        *field = file.number<uint64_t>(value);
        value += 8;
      }
    }
  }
  return place;
}

} // namespace

std::map<std::string, std::string_view> read_stored_zip(
    std::string_view bytes,
    const std::string& where) {
  const Bytes file{bytes, where};
  std::map<std::string, std::string_view> files;
  auto [entry, count] = find_directory(file);
  uint64_t total = 0;
  for (; count > 0; --count) {
    file.check(
        file.number<uint32_t>(entry) == kEntrySignature,
        "its directory is damaged");
    const auto name_size = file.number<uint16_t>(entry + 28);
    const std::string name(file.at(entry + kEntrySize, name_size));
    const auto flags = file.number<uint16_t>(entry + 8);
    const auto method = file.number<uint16_t>(entry + 10);
    const auto place = place_of(file, entry);
    file.check(
        method == 0 && (flags & 1) == 0 && place.size == place.stored_size,
        "it is compressed or encrypted");
    file.check(
        file.number<uint32_t>(place.position) == kFileSignature,
        "a file in it is damaged");
    const auto content = file.at(
        place.position + kFileHeaderSize +
            file.number<uint16_t>(place.position + 26) +
            file.number<uint16_t>(place.position + 28),
        place.size);
    total += content.size();
    file.check(total <= bytes.size(), "files in it overlap");
    file.check(
        crc32(content) == file.number<uint32_t>(entry + 16),
        "a checksum is wrong");
    file.check(
        files.emplace(name, content).second, "it has the same name twice");
    entry += kEntrySize + name_size + file.number<uint16_t>(entry + 30) +
        file.number<uint16_t>(entry + 32);
  }
  return files;
}

} // namespace torchlora::io
