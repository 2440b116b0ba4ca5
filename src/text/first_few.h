#pragma once

#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Returns the first `most` of `names` with commas between them, and ", …" if
/// there are more. For messages about a model that may have thousands.
TORCHLORA_API std::string first_few(
    const std::vector<std::string>& names,
    size_t most = 8);

} // namespace torchlora::detail
