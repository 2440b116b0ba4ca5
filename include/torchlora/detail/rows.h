#pragma once

#include <torchlora/types.h>

/// Not public: helpers for inline code of the library's own headers.
namespace torchlora::detail {

/// Returns `tensor` [*, n] as rows [m, n], also if it has no elements (from
/// which `reshape({-1, n})` cannot tell m).
inline Tensor as_rows(const Tensor& tensor) {
  return tensor.dim() == 1 ? tensor.unsqueeze(0) : tensor.flatten(0, -2);
}

} // namespace torchlora::detail
