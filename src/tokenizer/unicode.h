#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Returns the number of bytes of the UTF-8 character at `position`, or 1 if
/// none begins there.
size_t utf8_length(std::string_view text, size_t position);

TORCHLORA_API bool is_valid_utf8(std::string_view text);

/// Removes white space (Unicode's, as Python's `str.strip`) from both ends.
TORCHLORA_API std::string_view strip(std::string_view text);

/// Replaces every `from`, which must not be empty, by `to`.
std::string
replace_all(std::string_view text, std::string_view from, std::string_view to);

} // namespace torchlora::detail
