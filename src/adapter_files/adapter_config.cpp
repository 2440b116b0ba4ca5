#include <torchlora/adapter_files/adapter_config.h>

#include <nlohmann/json.hpp>

#include <torchlora/config/targets.h>
#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "adapter_files/config_fields.h"
#include "adapter_files/config_reader.h"
#include "adapter_files/config_writer.h"
#include "io/input_file.h"
#include "io/parse_json.h"

namespace torchlora {
namespace fs = std::filesystem;

namespace {

constexpr auto kConfigFile = "adapter_config.json";

} // namespace

LoraConfig load_adapter_config(const fs::path& directory) {
  const auto path = directory / kConfigFile;
  TORCHLORA_CHECK_DATA(
      io::is_present(path),
      "[load_adapter_config] Can't find '",
      kConfigFile,
      "' at '",
      directory.string(),
      "'");
  const auto where = "[load_adapter_config] " + path.string() + ": ";
  const auto text = io::read_file(path, io::kMaxJsonBytes);
  io::parse_json(text, where); // refuses what the next line must not see
  const auto values = nlohmann::ordered_json::parse(text);
  TORCHLORA_CHECK_DATA(
      values.is_object() && values.contains("peft_type") &&
          values["peft_type"] == "LORA",
      where,
      "peft_type must be \"LORA\", found ",
      values.is_object() && values.contains("peft_type")
          ? io::json_text(values["peft_type"])
          : "none");

  LoraConfig config;
  ConfigReader reader(values, where);
  visit_fields(reader, config);
  config.unknown_keys(reader.unknown());
  for (const auto& [key, value] : config.unknown_keys()) {
    TORCH_WARN(where, "the key ", key, " is not known");
  }
  try {
    // Compiles the patterns, so that a wrong one is an error of this file.
    TargetMatcher{config};
    PatternTable{config.rank_pattern()};
    PatternTable{config.alpha_pattern()};
  } catch (const c10::ValueError& e) {
    TORCHLORA_CHECK_DATA(false, where, e.what_without_backtrace());
  }
  return config;
}

std::string adapter_config_json(const LoraConfig& config) {
  ConfigWriter writer;
  visit_fields(writer, config);
  for (const auto& [key, text] : config.unknown_keys()) {
    writer.values()[key] = nlohmann::json::parse(text);
  }
  return writer.values().dump(2) + "\n";
}

} // namespace torchlora
