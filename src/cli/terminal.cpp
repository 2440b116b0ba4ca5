#include "cli/terminal.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tokenizer/unicode.h"

namespace torchlora::cli {
namespace {

/// The number of bytes of the UTF-8 character that begins with `first`; 1 for
/// a byte that begins none.
size_t character_size(unsigned char first) {
  return first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : first >= 0xC0 ? 2 : 1;
}

/// The code point of a valid UTF-8 character.
char32_t code_point(std::string_view character) {
  const auto first = static_cast<unsigned char>(character[0]);
  if (character.size() == 1) {
    return first;
  }
  char32_t value = first & (0xFF >> (character.size() + 1));
  for (const char c : character.substr(1)) {
    value = value << 6 | (static_cast<unsigned char>(c) & 0x3F);
  }
  return value;
}

bool is_control(char32_t c) {
  return (c < 0x20 && c != '\n' && c != '\t') || (c >= 0x7F && c < 0xA0);
}

/// The marks that change the direction of the text behind them.
bool is_direction(char32_t c) {
  return (c >= 0x202A && c <= 0x202E) || (c >= 0x2066 && c <= 0x2069);
}

void print(FILE* stream, std::string_view text) {
  const std::string line = printable(text) + "\n";
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

std::string printable(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<unsigned char>(text[i]);
    const std::string_view character = text.substr(i, character_size(first));
    i += character.size();
    if (!detail::is_valid_utf8(character)) {
      i -= character.size() - 1;
      result += fmt::format("\\x{:02x}", first);
      continue;
    }
    const char32_t code = code_point(character);
    if (is_control(code)) {
      result += fmt::format("\\x{:02x}", static_cast<uint32_t>(code));
    } else if (is_direction(code)) {
      result += fmt::format("\\u{:04x}", static_cast<uint32_t>(code));
    } else {
      result += character;
    }
  }
  return result;
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
