#pragma once

#include <ATen/core/Tensor.h>

namespace torchlora {

using at::Tensor;

} // namespace torchlora
