#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::io {

/// Replaces the file `path` by `content`, or creates it. If anything fails, the
/// old file stays as it is and c10::Error gives the system's reason (disk full,
/// not writable).
TORCHLORA_API void write_file_atomic(
    const std::filesystem::path& path,
    std::string_view content);

/// Replaces the file `path` by content that comes in pieces, or creates it.
/// Calls `write` once; `write` calls `append` for each piece. If writing
/// fails, the old file stays as it is and c10::Error gives the system's reason.
/// It stays, too, if `write` throws, and the exception goes to the caller.
TORCHLORA_API void write_file_atomic(
    const std::filesystem::path& path,
    const std::function<
        void(const std::function<void(const void* data, size_t size)>& append)>&
        write);

/// Returns the content of the file `path`. DataError if it is not a regular
/// file, cannot be read, or is longer than `max_bytes`.
TORCHLORA_API std::string read_file(
    const std::filesystem::path& path,
    uint64_t max_bytes = UINT64_MAX);

} // namespace torchlora::io
