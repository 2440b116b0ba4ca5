#pragma once

#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Removes white space (Unicode's, as Python's `str.strip`) from both ends.
TORCHLORA_API std::string_view strip(std::string_view text);

/// Replaces every `from`, which must not be empty, by `to`.
std::string
replace_all(std::string_view text, std::string_view from, std::string_view to);

} // namespace torchlora::detail
