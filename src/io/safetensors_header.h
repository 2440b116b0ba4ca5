#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include <c10/core/ScalarType.h>

namespace torchlora::io {

/// Where one tensor lies in a safetensors file; `begin` and `end` are bytes
/// behind the header.
struct SafetensorsEntry {
  c10::ScalarType dtype;
  std::vector<int64_t> sizes;
  uint64_t begin, end;
};

struct SafetensorsHeader {
  /// In the order of the data.
  std::vector<std::string> keys;
  std::unordered_map<std::string, SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  uint64_t data_begin = 0;
};

/// Reads and checks the header at the beginning of `bytes`: every tensor's
/// range fits its dtype and shape, and the ranges fill the file without holes
/// or overlaps. DataError names `file` and the tensor.
SafetensorsHeader parse_safetensors_header(
    const char* bytes,
    uint64_t size,
    const std::string& file);

/// The format's name of a dtype. ValueError if it has none.
const char* safetensors_dtype_name(
    c10::ScalarType type,
    const std::string& key);

} // namespace torchlora::io
