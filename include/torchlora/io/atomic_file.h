#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::io {

/// Replaces `path` by `content`, or leaves it as it is: temporary file in the
/// same folder, fsync, rename, fsync of the folder. `c10::Error` with the
/// system's reason (disk full, not writable).
TORCHLORA_API void write_file_atomic(
    const std::filesystem::path& path,
    std::string_view content);

/// The same for content that is produced in pieces: `write` receives a
/// function that appends.
TORCHLORA_API void write_file_atomic(
    const std::filesystem::path& path,
    const std::function<
        void(const std::function<void(const void* data, size_t size)>& append)>&
        write);

/// The whole file. DataError if it cannot be read.
TORCHLORA_API std::string read_file(const std::filesystem::path& path);

} // namespace torchlora::io
