#pragma once

#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <torchlora/export.h>

namespace torchlora::io {

/// Parses JSON from a file that nobody vouches for. DataError, beginning with
/// `where`, for text that is not JSON or is nested deeper than any file of
/// this field (to print or to walk it recursively would overflow the stack).
TORCHLORA_API nlohmann::json parse_json(
    std::string_view text,
    const std::string& where);

/// The same, and refuses an object that has a name twice: nlohmann's parser
/// keeps the last one silently.
TORCHLORA_API nlohmann::json parse_json_unique(
    std::string_view text,
    const std::string& where);

} // namespace torchlora::io
