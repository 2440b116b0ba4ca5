#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Bytes of the UTF-8 character at `position`; 1 for a byte that begins none.
size_t utf8_length(std::string_view text, size_t position);

bool is_valid_utf8(std::string_view text);

/// Without the white space (Unicode's, as Python's `str.strip`) around it.
TORCHLORA_API std::string_view strip(std::string_view text);

/// Replaces every `from` (not empty) by `to`.
std::string
replace_all(std::string_view text, std::string_view from, std::string_view to);

} // namespace torchlora::detail
