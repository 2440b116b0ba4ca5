#pragma once

#include <string>
#include <string_view>

#include <torchlora/export.h>

namespace torchlora::io {

/// Returns what a file is that begins with `content` and is not what its reader
/// expects, and what to do about it, by its first bytes and lines: "a gzip
/// file; unpack it (gunzip)". "" if it is none of the formats that people
/// confuse: compressed files and archives, parquet, Arrow, safetensors, a
/// pickle, a Git LFS pointer, a web page, UTF-16, YAML, CSV. For error messages
/// only; JSON is never recognized here.
TORCHLORA_API std::string recognized_format(std::string_view content);

} // namespace torchlora::io
