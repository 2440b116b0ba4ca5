#pragma once

#include <string>
#include <vector>

#include <torchlora/export.h>

namespace torchlora::detail {

/// Returns the candidate nearest to `name` by edit distance, or "" if none is
/// near. For error messages.
TORCHLORA_API std::string nearest(
    const std::string& name,
    const std::vector<std::string>& candidates);

} // namespace torchlora::detail
