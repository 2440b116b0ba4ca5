#pragma once

#include <cstddef>

namespace torchlora::io {

/// Watches a mapping of a file: if a read from it raises SIGBUS (the file was
/// truncated, or its disk failed), the process prints `message` and exits with
/// code 3 instead of dying by the signal. `message` must live until
/// `forget_mapping(data)`.
void watch_mapping(const char* data, size_t size, const char* message);
void forget_mapping(const char* data);

} // namespace torchlora::io
