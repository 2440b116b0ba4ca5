// Input: an adapter_config.json.
#include <optional>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/config/targets.h>

#include "fuzz/harness.h"

using namespace torchlora;

namespace {

/// Matches names of modules, as a load would. ValueError for a pattern that is
/// no regular expression.
void match_targets(const LoraConfig& config) {
  static const std::vector<std::string> names = {
      "model.layers.11.self_attn.q_proj", "model.embed_tokens", "lm_head"};
  fuzz::accept_value_error([&] {
    for (const auto rules : {TargetRules::kPeft, TargetRules::kTorchlora}) {
      const TargetMatcher matcher(config, rules);
      for (const auto& name : names) {
        matcher.match(name);
      }
    }
  });
  fuzz::accept_value_error(
      [&] { PatternTable(config.rank_pattern()).unused(names); });
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto path = fuzz::work_folder() / "adapter_config.json";
  fuzz::write_file(path, fuzz::Input(data, size).rest());
  std::optional<LoraConfig> config;
  fuzz::accept_data_error(
      [&] { config = load_adapter_config(fuzz::work_folder()); });
  if (config) {
    match_targets(*config);
    // What is written is read, as the same configuration.
    const auto text = adapter_config_json(*config);
    fuzz::write_file(path, text);
    fuzz::expect(
        adapter_config_json(load_adapter_config(fuzz::work_folder())) == text,
        "a configuration that was written and read is written alike");
  }
  return 0;
}
