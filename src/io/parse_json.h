#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <torchlora/export.h>

namespace torchlora::io {

/// Parses JSON from an untrusted file. DataError, with `where` at its
/// beginning, if the text is not JSON or is nested deeper than 64 levels: code
/// that prints or walks such a value recursively would overflow the stack.
TORCHLORA_API nlohmann::json parse_json(
    std::string_view text,
    const std::string& where);

/// Same, and refuses an object with a name that occurs twice. The parser itself
/// keeps the last value without a word.
TORCHLORA_API nlohmann::json parse_json_unique(
    std::string_view text,
    const std::string& where);

} // namespace torchlora::io
