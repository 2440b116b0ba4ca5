#pragma once

#include "lora/overlay/weight_overlay.h"

namespace torchlora {

/// Whether the process has kernels for overlays, which the first call
/// registers.
bool overlay_is_registered();

/// The tensor that stands in for the weight of an overlay.
Tensor make_overlay(std::shared_ptr<const WeightOverlay> overlay);

} // namespace torchlora
