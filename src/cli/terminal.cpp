#include "cli/terminal.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "text/utf8.h"

namespace torchlora::cli {
namespace {

void print(FILE* stream, std::string_view text) {
  const std::string line = detail::printable(text) + "\n";
  std::fwrite(line.data(), 1, line.size(), stream);
  std::fflush(stream);
}

} // namespace

void prepare_standard_streams() {
  std::signal(SIGPIPE, SIG_IGN);
  for (int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(stream, F_GETFD) < 0) {
      // The lowest free number, which is `stream`.
      [[maybe_unused]] const int opened = open("/dev/null", O_RDWR);
    }
  }
}

void say(std::string_view text) {
  print(stdout, text);
}

void say_error(std::string_view text) {
  print(stderr, text);
}

int terminal_width() {
  if (isatty(STDERR_FILENO) != 1) {
    return 0;
  }
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 80;
}

} // namespace torchlora::cli
