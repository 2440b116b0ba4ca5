#pragma once

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>

/// Not public: for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns ‖W + scaling · B A‖ of each row, [out], at least fp32 and constant:
/// DoRA's norm. W [out, in] of any dtype, A [r, in], B [out, r]. Makes no
/// matrix of the size of W:
///
///     ‖w + s b A‖² = ‖w‖² + 2 s (w Aᵀ) · b + s² b (A Aᵀ) bᵀ
TORCHLORA_API at::Tensor row_norms(
    const at::Tensor& weight,
    const at::Tensor& A,
    const at::Tensor& B,
    double scaling);

} // namespace torchlora::detail
