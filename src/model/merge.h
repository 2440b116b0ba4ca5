#pragma once

#include "model/sites.h"

namespace torchlora {

/// Warns if an initializer took the update of an adapter that is lost out of
/// the base weights: they are not the original ones.
void warn_of_residual(
    const std::vector<TargetSite>& sites,
    const std::function<bool(const std::string&)>& is_lost,
    const char* function);

} // namespace torchlora
