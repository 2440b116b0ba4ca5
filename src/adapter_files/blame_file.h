#pragma once

#include <filesystem>

#include <torchlora/error.h>

#include "model/function_name.h"

namespace torchlora {

/// Runs a step of `function` in which a file's configuration meets the model. A
/// configuration that cannot be right there is an error of its file.
template <class Step>
auto blame_file(
    const char* function,
    const std::filesystem::path& directory,
    const Step& step) {
  try {
    return step();
  } catch (const c10::ValueError& e) {
    TORCHLORA_CHECK_DATA(
        false,
        "[",
        function,
        "] ",
        (directory / "adapter_config.json").string(),
        " does not fit this model: ",
        without_function(e));
    throw;
  }
}

} // namespace torchlora
