#include "fuzz/harness.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <torchlora/init/initializer.h>

namespace torchlora::init {

/// In place of the table of initializers, which would take as long to compile
/// as the parsers: no harness registers one.
bool is_unknown_to_peft(const InitLoraWeights& /*value*/) {
  return false;
}

} // namespace torchlora::init

namespace torchlora::fuzz {
namespace fs = std::filesystem;

namespace {

struct WorkFolder {
  WorkFolder()
      : path(
            fs::temp_directory_path() /
            ("torchlora-fuzz-" + std::to_string(::getpid()))) {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~WorkFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  fs::path path;
};

/// Warnings about unknown keys would be most of the output.
struct NoWarnings : c10::WarningHandler {
  void process(const c10::Warning& /*warning*/) override {}
};

} // namespace

std::string_view Input::take_until(char end) {
  const auto size = std::min(rest_.find(end), rest_.size());
  const auto taken = rest_.substr(0, size);
  rest_.remove_prefix(std::min(size + 1, rest_.size()));
  return taken;
}

uint8_t Input::take_byte() {
  if (rest_.empty()) {
    return 0;
  }
  const auto byte = static_cast<uint8_t>(rest_.front());
  rest_.remove_prefix(1);
  return byte;
}

const fs::path& work_folder() {
  static const WorkFolder folder;
  return folder.path;
}

void write_file(const fs::path& path, std::string_view content) {
  const int fd =
      ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  const bool is_written = fd >= 0 &&
      ::write(fd, content.data(), content.size()) ==
          static_cast<ssize_t>(content.size());
  ::close(fd);
  expect(is_written, "the harness cannot write its input file");
}

void expect(bool holds, const char* what) {
  if (!holds) {
    std::fprintf(stderr, "expected: %s\n", what);
    std::abort();
  }
}

} // namespace torchlora::fuzz

/// libFuzzer calls it once, before the first input.
extern "C" int LLVMFuzzerInitialize(int* /*argc*/, char*** /*argv*/) {
  static torchlora::fuzz::NoWarnings none;
  c10::WarningUtils::set_warning_handler(&none);
  return 0;
}
