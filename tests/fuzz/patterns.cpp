// Input: a pattern, a line feed, the text to match.
#include "config/python_regex.h"
#include "fuzz/harness.h"

using namespace torchlora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  fuzz::Input input(data, size);
  const std::string pattern(input.take_until('\n'));
  const auto text = input.rest();
  fuzz::accept_value_error([&] {
    const PythonRegex regex(pattern);
    const bool matches = regex.match(text);
    fuzz::expect(
        matches || !regex.fullmatch(text),
        "re.match finds what re.fullmatch finds");
    fuzz::expect(
        matches || !regex.match_group(text, "idx"),
        "there is no group without a match");
  });
  return 0;
}
