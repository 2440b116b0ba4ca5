// What the parity scripts compare on random texts. INPUT and OUTPUT have one
// JSON value per line.
//   parity_texts patterns INPUT OUTPUT
//     [pattern, text] becomes [fullmatch, match, the group "idx" of match] or,
//     for a pattern that is refused, the message
//   parity_texts tokenizer FILE INPUT OUTPUT
//     a text becomes [ids, decoded, decoded without special tokens], a list of
//     ids becomes [decoded, decoded without special tokens]
#include <fstream>
#include <functional>
#include <iostream>

#include <c10/util/Exception.h>
#include <nlohmann/json.hpp>

#include <torchlora/tokenizer.h>

#include "config/python_regex.h"

namespace {

using nlohmann::json;

json match(const json& given) {
  const auto text = given[1].get<std::string>();
  try {
    const torchlora::PythonRegex regex(given[0].get<std::string>());
    const auto group = regex.match_group(text, "idx");
    return {
        regex.fullmatch(text),
        regex.match(text),
        group ? json(*group) : json()};
  } catch (const c10::ValueError& error) {
    return error.what_without_backtrace();
  }
}

json tokenize(const torchlora::Tokenizer& tokenizer, const json& given) {
  const bool is_text = given.is_string();
  const auto ids = is_text ? tokenizer.encode(given.get<std::string>())
                           : given.get<std::vector<int64_t>>();
  auto result = is_text ? json{ids} : json::array();
  result.push_back(tokenizer.decode(ids));
  result.push_back(tokenizer.decode(ids, /*skip_special_tokens=*/true));
  return result;
}

void run(
    const std::string& input,
    const std::string& output,
    const std::function<json(const json&)>& answer) {
  std::ifstream in(input);
  std::ofstream out(output);
  for (std::string line; std::getline(in, line);) {
    out << answer(json::parse(line))
               .dump(-1, ' ', true, json::error_handler_t::replace)
        << '\n';
  }
}

} // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() == 3 && words[0] == "patterns") {
    run(words[1], words[2], match);
  } else if (words.size() == 4 && words[0] == "tokenizer") {
    const auto tokenizer = torchlora::Tokenizer::from_pretrained(words[1]);
    run(words[2], words[3], [&](const json& given) {
      return tokenize(tokenizer, given);
    });
  } else {
    std::cerr
        << "usage: parity_texts patterns|tokenizer FILE… (see the source)\n";
    return 2;
  }
}
