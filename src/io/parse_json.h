#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <torchlora/export.h>

namespace torchlora::io {

/// The largest configuration file.
constexpr uint64_t kMaxJsonBytes = 32 << 20;
constexpr size_t kMaxJsonDepth = 64;
/// A parsed value takes up to 64 bytes, whatever its text takes.
constexpr size_t kMaxJsonValues = 1 << 23;

/// Parses JSON from an untrusted file. DataError, with `where` at its
/// beginning, if the text is not JSON or is nested deeper than 64 levels
/// or has too many values: code that prints or walks such a value recursively
/// would overflow the stack.
TORCHLORA_API nlohmann::json parse_json(
    std::string_view text,
    const std::string& where);

/// Same, and refuses an object with a name that occurs twice. The parser itself
/// keeps the last value without a word.
TORCHLORA_API nlohmann::json parse_json_unique(
    std::string_view text,
    const std::string& where);

/// Returns the text of a value for a message, at most 200 characters of it.
TORCHLORA_API std::string json_text(const nlohmann::json& value);

/// Parses the JSON file `path`, which must not be larger than `kMaxJsonBytes`.
TORCHLORA_API nlohmann::json read_json(
    const std::filesystem::path& path,
    const std::string& where);

} // namespace torchlora::io
