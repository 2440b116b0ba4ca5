// Input: a config.json or a model.safetensors.index.json; it is read as both.
#include <torchlora/io/checkpoint.h>
#include <torchlora/models/gemma4/config.h>

#include "fuzz/harness.h"

using namespace torchlora;

namespace {

/// The one shard beside the index.
void write_shard() {
  io::save_safetensors(
      fuzz::work_folder() / "model-00001-of-00001.safetensors",
      {{"a", at::ones({2})}, {"b", at::ones({3})}});
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto config = fuzz::work_folder() / "config.json";
  static const auto index =
      fuzz::work_folder() / "model.safetensors.index.json";
  static const bool is_prepared = (write_shard(), true);
  static_cast<void>(is_prepared);
  const auto text = fuzz::Input(data, size).rest();
  fuzz::write_file(config, text);
  fuzz::write_file(index, text);
  fuzz::accept_data_error([] {
    const auto read = gemma4::Config::from_pretrained(fuzz::work_folder());
    for (const auto& layer : read.text_config.layers) {
      fuzz::expect(
          layer.head_dim > 0 && layer.num_key_value_heads > 0 &&
              layer.intermediate_size > 0,
          "the sizes of a layer are positive");
    }
  });
  fuzz::accept_data_error([] {
    const io::Checkpoint checkpoint(fuzz::work_folder());
    for (const auto& key : checkpoint.keys()) {
      checkpoint.tensor(key);
    }
  });
  return 0;
}
