#pragma once

#include <c10/util/Exception.h>

#include <torchlora/export.h>

namespace torchlora {

/// The error for input that cannot be used: a file that is missing, truncated
/// or malformed, a data set row without a required field, a checkpoint without
/// a required tensor. The message names the file (with line, key or tensor),
/// what was expected and what was found. The `torchlora` program exits with 3.
///
/// The other errors of the library are LibTorch's: `c10::ValueError` for a
/// configuration or argument that cannot be right (exit code 2), `c10::Error`
/// for a run that failed (exit code 1).
class TORCHLORA_API DataError : public c10::Error {
 public:
  using c10::Error::Error;
};

} // namespace torchlora

/// Throws `torchlora::DataError` with the message `...` unless `cond` holds.
/// The counterpart of `TORCH_CHECK`.
#define TORCHLORA_CHECK_DATA(cond, ...)                        \
  if (C10_UNLIKELY_OR_CONST(!(cond))) {                        \
    throw ::torchlora::DataError(                              \
        {__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, \
        ::c10::str(__VA_ARGS__));                              \
  }
