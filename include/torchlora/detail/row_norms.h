#pragma once

#include <torchlora/types.h>

#include <torchlora/export.h>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns the norm of each row of W + scaling · B A, [out], in at least fp32
/// and without a gradient. DoRA divides by it. `weight` W is [out, in] of any
/// dtype, A [r, in], B [out, r]. Makes no matrix of the size of W; for the row
/// w of W and the row b of B
///
///     ‖w + s b A‖² = ‖w‖² + 2 s (w Aᵀ) · b + s² b (A Aᵀ) bᵀ
TORCHLORA_API Tensor row_norms(
    const Tensor& weight,
    const Tensor& A,
    const Tensor& B,
    double scaling);

} // namespace torchlora::detail
