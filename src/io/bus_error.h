#pragma once

#include <cstddef>

namespace torchlora::io {

/// Watches a mapping of the file `path`: if a read from it raises SIGBUS (the
/// file was truncated, or its disk failed), the process prints a message with
/// the name of the file and exits with code 3 instead of dying by the signal.
/// `path` must live until `forget_mapping(data)`.
void watch_mapping(const char* data, size_t size, const char* path);
void forget_mapping(const char* data);

} // namespace torchlora::io
