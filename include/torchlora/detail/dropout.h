#pragma once

#include <torchlora/types.h>

#include <torchlora/export.h>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns `x` with each element set to 0 with the given `probability` and the
/// others divided by 1 − probability. `at::dropout`, also for complex tensors,
/// and several times as fast on the CPU, whose masks are not LibTorch's.
TORCHLORA_API Tensor dropout(const Tensor& x, double probability);

} // namespace torchlora::detail
