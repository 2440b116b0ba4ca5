#pragma once

#include <torchlora/tensor.h>

#include <torchlora/export.h>

/// Not public: for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns ‖W + scaling · B A‖ of each row, [out], at least fp32 and constant:
/// DoRA's norm. W [out, in] of any dtype, A [r, in], B [out, r]. Makes no
/// matrix of the size of W:
///
///     ‖w + s b A‖² = ‖w‖² + 2 s (w Aᵀ) · b + s² b (A Aᵀ) bᵀ
TORCHLORA_API Tensor row_norms(
    const Tensor& weight,
    const Tensor& A,
    const Tensor& B,
    double scaling);

} // namespace torchlora::detail
