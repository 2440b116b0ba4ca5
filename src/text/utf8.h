#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Returns the number of bytes of the UTF-8 character at `position`, or 0 if
/// the bytes there are not valid UTF-8.
TORCHLORA_API size_t valid_utf8_length(std::string_view text, size_t position);

/// Returns the number of bytes of the UTF-8 character at `position`, or 1 if
/// none begins there.
TORCHLORA_API size_t utf8_length(std::string_view text, size_t position);

TORCHLORA_API bool is_valid_utf8(std::string_view text);

/// Returns the number of characters. A byte that is not UTF-8 counts as one.
TORCHLORA_API size_t num_characters(std::string_view text);

/// Returns the beginning of `text` of at most `count` characters. A byte that
/// is not UTF-8 counts as one.
TORCHLORA_API std::string_view first_characters(
    std::string_view text,
    size_t count);

/// Returns the code point of the character of `length` bytes at `position`.
TORCHLORA_API char32_t
code_point(std::string_view text, size_t position, size_t length);

/// Returns `text` with what would steer a terminal written out: `\x1b` for an
/// escape character, `\u202e` for a change of the writing direction, `\xff` for
/// a byte that is not UTF-8. The control characters in `kept` stay.
TORCHLORA_API std::string printable(
    std::string_view text,
    std::string_view kept = "\n\t");

} // namespace torchlora::detail
