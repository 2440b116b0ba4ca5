#pragma once

#include <map>
#include <string>
#include <string_view>

namespace torchlora::io {

/// Returns the files in the zip archive `bytes`, by name, as views of their
/// bytes. Only archives without compression, which is how `torch.save` writes
/// them. DataError, with `where` at its beginning, for any other bytes, also if
/// a checksum is wrong.
std::map<std::string, std::string_view> read_stored_zip(
    std::string_view bytes,
    const std::string& where);

} // namespace torchlora::io
