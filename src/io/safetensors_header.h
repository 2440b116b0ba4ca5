#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <c10/core/ScalarType.h>

namespace torchlora::io {

/// One tensor of a safetensors file. `begin` and `end` count bytes from the end
/// of the header.
struct SafetensorsEntry {
  c10::ScalarType dtype;
  std::vector<int64_t> sizes;
  uint64_t begin, end;
};

struct SafetensorsHeader {
  /// In the order of the data.
  std::vector<std::string> keys;
  /// Not a hash table: a file chooses the names and, with them, their hashes.
  std::map<std::string, SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;
};

/// Reads the header at the beginning of `bytes` and checks that every range
/// fits the tensor's dtype and shape, and that the ranges fill the file without
/// holes or overlaps. DataError names `file` and the tensor.
SafetensorsHeader parse_safetensors_header(
    const char* bytes,
    uint64_t size,
    const std::string& file);

/// Returns the format's name of a dtype. ValueError if it has none.
const char* safetensors_dtype_name(
    c10::ScalarType type,
    const std::string& key);

} // namespace torchlora::io
