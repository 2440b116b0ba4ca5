#pragma once

#include <torchlora/export.h>
#include <torchlora/types.h>

namespace torchlora {

/// Returns whether two tensors have a byte of memory in common. Exact for any
/// sizes, strides and dtypes: two columns of one matrix do not overlap.
TORCHLORA_API bool overlap(const Tensor& a, const Tensor& b);

/// Returns why an in-place operation on the tensor fails, or writes to one
/// element more than once: "is …", the end of a sentence. "" if it does
/// neither.
TORCHLORA_API const char* why_not_writable(const Tensor& tensor);

} // namespace torchlora
