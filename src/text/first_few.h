#pragma once

#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Returns the first eight of `names` with commas between them, and ", …" if
/// there are more. For messages about a model that may have thousands.
TORCHLORA_API std::string first_few(const std::vector<std::string>& names);

} // namespace torchlora::detail
