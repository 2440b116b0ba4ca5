#pragma once

#include <filesystem>

namespace torchlora::io {

/// Copies the content of the file `from` to `to`, as `write_file_atomic` writes
/// it. Needs no memory for the whole file.
void copy_file_atomic(
    const std::filesystem::path& from,
    const std::filesystem::path& to);

} // namespace torchlora::io
