// Input: a tokenizer.json, a text and a tokenizer_config.json, with a zero byte
// between them.
#include <optional>

#include <torchlora/tokenizer/tokenizer.h>

#include "fuzz/harness.h"

using namespace torchlora;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto path = fuzz::work_folder() / "tokenizer.json";
  static const auto config = fuzz::work_folder() / "tokenizer_config.json";
  fuzz::Input input(data, size);
  fuzz::write_file(path, input.take_until('\0'));
  const auto text = input.take_until('\0');
  if (input.empty()) {
    std::filesystem::remove(config);
  } else {
    fuzz::write_file(config, input.rest());
  }
  std::optional<Tokenizer> tokenizer;
  fuzz::accept_data_error([&] {
    tokenizer.emplace(Tokenizer::from_pretrained(fuzz::work_folder()));
  });
  if (!tokenizer) {
    return 0;
  }
  // A tokenizer that was accepted takes every text, and decodes its own ids.
  for (const bool special : {false, true}) {
    const auto ids = tokenizer->encode(text, special);
    for (const auto id : ids) {
      fuzz::expect(
          id >= 0 && id < tokenizer->vocab_size(),
          "an id of encode is in the vocabulary");
    }
    tokenizer->decode(ids, special);
  }
  return 0;
}
