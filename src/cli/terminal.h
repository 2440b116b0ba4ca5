#pragma once

#include <string>
#include <string_view>

#include <fmt/format.h>

namespace torchlora::cli {

/// Makes the program independent of the state of its standard streams. A write
/// to a closed pipe is an error of that write and not the end of a run, and a
/// standard stream that the caller closed goes to /dev/null, so that no file
/// of the run gets its number.
void prepare_standard_streams();

/// @{
/// Print a line of printable text to the standard output or to the standard
/// error. They never fail: a run goes on when nobody reads it any more.
void say(std::string_view text);
void say_error(std::string_view text);
/// @}

/// Returns the number of columns of the terminal that the standard error is,
/// or 0 if it is no terminal.
int terminal_width();

} // namespace torchlora::cli
