#pragma once

#include <CLI/CLI.hpp>

namespace torchlora::cli {

/// Adds checks to all options of `app` that take numbers. A whole number is
/// decimal and fits its type, any other is finite. CLI11 reads 010 as 8,
/// 99999999999999999999 as the largest number, and 1e999 as infinity.
void check_numbers(CLI::App& app);

/// A validator that refuses negative numbers.
CLI::Validator not_negative();

} // namespace torchlora::cli
