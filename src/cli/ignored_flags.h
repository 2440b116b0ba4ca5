#pragma once

#include <CLI/CLI.hpp>

namespace torchlora::cli {

/// Judges flags that were given and that others make void. ValueError for
/// evaluation that was asked for without evaluation data, a warning that names
/// the flags for all others.
void check_flags_have_effect(const CLI::App& app);

} // namespace torchlora::cli
