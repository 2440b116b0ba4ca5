#pragma once

// A harness hands one input to one parser and checks its answer. libFuzzer
// calls it many thousand times, changes the inputs that reach new code, and
// stops at the first signal, sanitizer report, exception that leaves the
// harness, slow input or large allocation. It writes that input to a file.

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <torchlora/error.h>

namespace torchlora::fuzz {

/// An input, taken apart from the front.
class Input {
 public:
  Input(const uint8_t* data, size_t size)
      : rest_(reinterpret_cast<const char*>(data), size) {}
  explicit Input(std::string_view text) : rest_(text) {}

  bool empty() const {
    return rest_.empty();
  }
  std::string_view rest() const {
    return rest_;
  }
  /// Takes what precedes the first `end`, and `end` itself; everything if there
  /// is none.
  std::string_view take_until(char end);
  /// Takes one byte; 0 if nothing is left.
  uint8_t take_byte();

 private:
  std::string_view rest_;
};

/// Returns an empty folder of this process below $TMPDIR, which is removed when
/// the process ends.
const std::filesystem::path& work_folder();

/// Replaces the file `path` by `content`.
void write_file(const std::filesystem::path& path, std::string_view content);

/// Ends the process with `what` unless `holds`: the parser's answer is wrong.
void expect(bool holds, const char* what);

/// Calls `parse`. A DataError is a good answer to a bad input. Everything else
/// that is thrown leaves the harness.
template <class Parse>
void accept_data_error(const Parse& parse) {
  try {
    parse();
  } catch (const DataError&) {
  }
}

/// Same, for a function that documents ValueError.
template <class Call>
void accept_value_error(const Call& call) {
  try {
    call();
  } catch (const c10::ValueError&) {
  }
}

} // namespace torchlora::fuzz
