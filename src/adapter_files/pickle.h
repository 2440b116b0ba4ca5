#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>

#include <torchlora/types.h>

namespace torchlora {

/// Returns the tensors of a file that `torch.save` wrote of a dictionary of
/// tensors. `files` are the files in its zip archive; the tensors point into
/// them and keep `owner` alive. No code of the pickle runs: only the few
/// operations are known that such a dictionary needs. DataError, with `where`
/// at its beginning, for anything else.
std::map<std::string, Tensor> read_pickled_tensors(
    const std::map<std::string, std::string_view>& files,
    const std::shared_ptr<void>& owner,
    const std::string& where);

} // namespace torchlora
