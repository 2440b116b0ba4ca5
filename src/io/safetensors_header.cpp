#include "io/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <tuple>

#include <torchlora/error.h>

#include "io/parse_json.h"
#include "io/recognize.h"

namespace torchlora::io {
using nlohmann::json;

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct DtypeName {
  const char* name;
  c10::ScalarType type;
};

constexpr DtypeName kDtypes[] = {
    {"BOOL", c10::ScalarType::Bool},
    {"U8", c10::ScalarType::Byte},
    {"I8", c10::ScalarType::Char},
    {"U16", c10::ScalarType::UInt16},
    {"I16", c10::ScalarType::Short},
    {"U32", c10::ScalarType::UInt32},
    {"I32", c10::ScalarType::Int},
    {"U64", c10::ScalarType::UInt64},
    {"I64", c10::ScalarType::Long},
    {"F16", c10::ScalarType::Half},
    {"BF16", c10::ScalarType::BFloat16},
    {"F32", c10::ScalarType::Float},
    {"F64", c10::ScalarType::Double},
    {"C64", c10::ScalarType::ComplexFloat},
    {"F8_E4M3", c10::ScalarType::Float8_e4m3fn},
    {"F8_E4M3FNUZ", c10::ScalarType::Float8_e4m3fnuz},
    {"F8_E5M2", c10::ScalarType::Float8_e5m2},
    {"F8_E5M2FNUZ", c10::ScalarType::Float8_e5m2fnuz},
    {"F8_E8M0", c10::ScalarType::Float8_e8m0fnu},
};

std::string dtype_names() {
  std::string names;
  for (const auto& entry : kDtypes) {
    names += (names.empty() ? "" : ", ") + std::string(entry.name);
  }
  return names;
}

std::optional<c10::ScalarType> dtype_by_name(const std::string& name) {
  for (const auto& entry : kDtypes) {
    if (name == entry.name) {
      return entry.type;
    }
  }
  return std::nullopt;
}

uint64_t
unsigned_value(const json& value, const std::string& where, const char* what) {
  TORCHLORA_CHECK_DATA(
      value.is_number_unsigned(),
      where,
      what,
      " must be a whole number that is not negative, found ",
      json_text(value));
  return value.get<uint64_t>();
}

/// Returns the bytes of a tensor. The product of its sizes other than zero must
/// fit int64 even if the tensor is empty, as its strides are such products.
uint64_t byte_size(
    const std::vector<int64_t>& sizes,
    c10::ScalarType dtype,
    const std::string& where) {
  constexpr auto kMax =
      static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  uint64_t bytes = c10::elementSize(dtype);
  bool is_empty = false;
  for (const auto size : sizes) {
    if (size == 0) {
      is_empty = true;
      continue;
    }
    TORCHLORA_CHECK_DATA(
        bytes <= kMax / static_cast<uint64_t>(size),
        where,
        "the shape is too large");
    bytes *= static_cast<uint64_t>(size);
  }
  return is_empty ? 0 : bytes;
}

SafetensorsEntry parse_entry(const json& value, const std::string& where) {
  const auto has_array = [&](const char* name) {
    return value.contains(name) && value[name].is_array();
  };
  TORCHLORA_CHECK_DATA(
      value.is_object() && value.contains("dtype") &&
          value["dtype"].is_string() && has_array("shape") &&
          has_array("data_offsets") && value["data_offsets"].size() == 2,
      where,
      "expected {\"dtype\": string, \"shape\": [...], \"data_offsets\": "
      "[begin, end]}, found ",
      json_text(value));
  const auto name = value["dtype"].get<std::string>();
  const auto dtype = dtype_by_name(name);
  TORCHLORA_CHECK_DATA(
      dtype,
      where,
      "dtype \"",
      name,
      "\" is not supported; supported are ",
      dtype_names());
  SafetensorsEntry entry{*dtype, {}, 0, 0};
  for (const auto& size : value["shape"]) {
    const auto n = unsigned_value(size, where, "a size in the shape");
    TORCHLORA_CHECK_DATA(
        n <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()),
        where,
        "the shape is too large");
    entry.sizes.push_back(static_cast<int64_t>(n));
  }
  const auto& offsets = value["data_offsets"];
  entry.begin = unsigned_value(offsets[0], where, "data_offsets");
  entry.end = unsigned_value(offsets[1], where, "data_offsets");
  TORCHLORA_CHECK_DATA(
      entry.begin <= entry.end,
      where,
      "data_offsets ",
      json_text(offsets),
      " end before they begin");
  const auto bytes = byte_size(entry.sizes, entry.dtype, where);
  TORCHLORA_CHECK_DATA(
      entry.end - entry.begin == bytes,
      where,
      "dtype ",
      name,
      " and shape ",
      json_text(value["shape"]),
      " need ",
      bytes,
      " bytes, data_offsets give ",
      entry.end - entry.begin);
  return entry;
}

void check_ranges(
    SafetensorsHeader& header,
    uint64_t available,
    const std::string& where) {
  std::sort(
      header.keys.begin(),
      header.keys.end(),
      [&](const auto& a, const auto& b) {
        const auto &x = header.entries.at(a), &y = header.entries.at(b);
        return std::tie(x.begin, x.end, a) < std::tie(y.begin, y.end, b);
      });
  uint64_t position = 0;
  for (const auto& key : header.keys) {
    const auto& entry = header.entries.at(key);
    TORCHLORA_CHECK_DATA(
        entry.begin == position,
        where,
        "tensor ",
        key,
        " begins at byte ",
        entry.begin,
        " of the data where ",
        position,
        " was expected: the tensors ",
        entry.begin < position ? "overlap" : "leave a hole");
    position = entry.end;
  }
  TORCHLORA_CHECK_DATA(
      position == available,
      where,
      "the tensors need ",
      position,
      " bytes, the file has ",
      available,
      position > available ? ": it is truncated" : ": bytes are left over");
}

} // namespace

SafetensorsHeader parse_safetensors_header(
    const char* bytes,
    uint64_t size,
    const std::string& file) {
  const auto where = "[SafetensorsFile] " + file + ": ";
  TORCHLORA_CHECK_DATA(
      size >= kLengthBytes,
      where,
      "a safetensors file has at least 8 bytes, this one has ",
      size);
  uint64_t length = 0;
  for (uint64_t i = 0; i < kLengthBytes; ++i) {
    length |= static_cast<uint64_t>(static_cast<unsigned char>(bytes[i]))
        << (8 * i);
  }
  // Only then: a length may begin with the bytes of another format.
  const auto format = length <= kMaxHeaderBytes
      ? std::string()
      : recognized_format({bytes, std::min<size_t>(size, 4096)});
  TORCHLORA_CHECK_DATA(
      format.empty(), where, "expected a safetensors file, found ", format);
  TORCHLORA_CHECK_DATA(
      length <= kMaxHeaderBytes,
      where,
      "a header of ",
      length,
      " bytes is over the format's limit of ",
      kMaxHeaderBytes,
      "; is this a safetensors file?");
  TORCHLORA_CHECK_DATA(
      length <= size - kLengthBytes,
      where,
      "the header should have ",
      length,
      " bytes, the file ends after ",
      size - kLengthBytes,
      ": it is truncated");
  SafetensorsHeader header;
  header.data_begin = kLengthBytes + length;
  const auto parsed =
      parse_json_unique({bytes + kLengthBytes, length}, where + "the header: ");
  TORCHLORA_CHECK_DATA(
      parsed.is_object(), where, "the header must be a JSON object");
  for (const auto& [key, value] : parsed.items()) {
    if (key != "__metadata__") {
      header.entries.emplace(
          key, parse_entry(value, where + "tensor " + key + ": "));
      header.keys.push_back(key);
      continue;
    }
    TORCHLORA_CHECK_DATA(
        value.is_object(), where, "__metadata__ must be an object of strings");
    for (const auto& [name, text] : value.items()) {
      TORCHLORA_CHECK_DATA(
          text.is_string(),
          where,
          "__metadata__ \"",
          name,
          "\" must be a string, found ",
          json_text(text));
      header.metadata[name] = text.get<std::string>();
    }
  }
  check_ranges(header, size - header.data_begin, where);
  return header;
}

const char* safetensors_dtype_name(
    c10::ScalarType type,
    const std::string& key) {
  for (const auto& entry : kDtypes) {
    if (type == entry.type) {
      return entry.name;
    }
  }
  TORCH_CHECK_VALUE(
      false,
      "[save_safetensors] tensor ",
      key,
      " has dtype ",
      type,
      ", which the safetensors format does not have");
}

} // namespace torchlora::io
