#include <torchlora/adapter_files/adapter_config.h>

#include <algorithm>
#include <cmath>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "adapter_files/config_reader.h"
#include "adapter_files/nested_configs.h"
#include "io/parse_json.h"

namespace torchlora::io {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr auto kConfigFile = "adapter_config.json";
constexpr auto kPeftVersion = "0.21.2";

/// PEFT's keys that this library does not act on, with the values that ask
/// for nothing. The first is what is written.
const json& neutral_values() {
  static const json values = json::parse(R"({
    "alora_invocation_tokens": [null],
    "arrow_config": [null],
    "kasa_config": [null],
    "megatron_config": [null],
    "monteclora_config": [null],
    "use_bdlora": [null, false],
    "use_qalora": [false]})");
  return values;
}

/// Keys whose value makes no difference here, with what is written.
const json& indifferent_values() {
  static const json values = json::parse(R"({
    "auto_mapping": null,
    "megatron_core": "megatron.core",
    "peft_version": null,
    "qalora_group_size": 16,
    "runtime_config": null})");
  return values;
}

void check_supported(const json& values, const std::string& file) {
  for (const auto& [key, neutral] : neutral_values().items()) {
    const auto found = values.find(key);
    TORCHLORA_CHECK_DATA(
        found == values.end() ||
            std::find(neutral.begin(), neutral.end(), *found) != neutral.end(),
        "[load_adapter_config] ",
        file,
        ": ",
        key,
        " = ",
        found == values.end() ? "" : found->dump(),
        " asks for a feature that torchlora does not support");
  }
}

/// An integer where the number is one, as PEFT's files have it.
json number(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15
      ? json(static_cast<int64_t>(value))
      : json(value);
}

json names(const ModuleNames& value) {
  return value.is_none() ? json()
      : value.is_regex() ? json(value.regex())
                         : json(value.list());
}

json pattern(const LoraConfig::Pattern& value) {
  json object = json::object();
  for (const auto& [key, entry] : value) {
    object[key] = number(entry);
  }
  return object;
}

/// [[start, end], …]
void read_layer_ranges(
    const ConfigReader& reader,
    LoraConfig::LayerRanges& ranges) {
  const auto* value = reader.find("layer_replication");
  if (!value) {
    return;
  }
  const auto is_pair = [](const json& entry) {
    return entry.is_array() && entry.size() == 2 &&
        entry[0].is_number_integer() && entry[1].is_number_integer();
  };
  if (!value->is_array() ||
      !std::all_of(value->begin(), value->end(), is_pair)) {
    reader.refuse("layer_replication", "a list of pairs of layer numbers");
  }
  ranges = value->get<LoraConfig::LayerRanges>();
}

void read(const ConfigReader& reader, TrainableTokenIndices& target) {
  constexpr auto kKey = "trainable_token_indices";
  using Indices = TrainableTokenIndices::Indices;
  const auto* value = reader.find(kKey);
  if (!value) {
    return;
  }
  const auto indices = [&](const json& list) {
    if (!list.is_array() || !std::ranges::all_of(list, [](const json& item) {
          return item.is_number_integer();
        })) {
      reader.refuse(kKey, "a list of integers, or an object of such lists");
    }
    return list.get<Indices>();
  };
  if (!value->is_object()) {
    target = indices(*value);
    return;
  }
  TrainableTokenIndices::ByModule modules;
  for (const auto& [name, list] : value->items()) {
    modules.emplace_back(name, indices(list));
  }
  target = std::move(modules);
}

json written(const TrainableTokenIndices& value) {
  if (value.is_none() || value.is_list()) {
    return value.is_none() ? json() : json(value.list());
  }
  json object = json::object();
  for (const auto& [name, indices] : value.by_module()) {
    object[name] = indices;
  }
  return object;
}

template <class T>
json or_null(const T& value) {
  return value.empty() ? json() : json(value);
}

} // namespace

LoraConfig load_adapter_config(const fs::path& directory) {
  const auto path = directory / kConfigFile;
  std::error_code error;
  TORCHLORA_CHECK_DATA(
      fs::exists(path, error),
      "[load_adapter_config] Can't find '",
      kConfigFile,
      "' at '",
      directory.string(),
      "'");
  const auto file = path.string();
  const auto text = read_file(path);
  const auto values = parse_json(text, "[load_adapter_config] " + file + ": ");
  // NOTE: ordered, for the first pattern that matches wins.
  const auto ordered = nlohmann::ordered_json::parse(text);
  TORCHLORA_CHECK_DATA(
      values.is_object() && values.contains("peft_type") &&
          values["peft_type"] == "LORA",
      "[load_adapter_config] ",
      file,
      ": peft_type must be \"LORA\", found ",
      values.is_object() && values.contains("peft_type")
          ? values["peft_type"].dump()
          : "none");
  check_supported(values, file);

  LoraConfig config;
  const ConfigReader reader(values, file);
  reader.read("r", "a number", config.r());
  reader.read("lora_alpha", config.lora_alpha());
  reader.read("lora_dropout", config.lora_dropout());
  reader.read("fan_in_fan_out", "true or false", config.fan_in_fan_out());
  reader.read("use_rslora", "true or false", config.use_rslora());
  reader.read("use_dora", "true or false", config.use_dora());
  reader.read("lora_bias", "true or false", config.lora_bias());
  reader.read("target_modules", config.target_modules());
  reader.read(
      "target_parameters",
      "a list of names or null",
      config.target_parameters());
  reader.read("exclude_modules", config.exclude_modules());
  reader.read_list(
      "layers_to_transform",
      "a number or a list of numbers",
      config.layers_to_transform());
  reader.read_list(
      "layers_pattern", "a name or a list of names", config.layers_pattern());
  read_layer_ranges(reader, config.layer_replication());
  for (auto [key, target] :
       {std::pair{"rank_pattern", &config.rank_pattern()},
        std::pair{"alpha_pattern", &config.alpha_pattern()}}) {
    reader.read(key, *target);
    if (!target->empty()) {
      target->clear();
      for (const auto& [regex, value] : ordered[key].items()) {
        target->emplace_back(regex, value.get<double>());
      }
    }
  }
  const char* biases = "none, all or lora_only";
  reader.read("bias", biases, config.bias());
  if (config.bias() != "none" && config.bias() != "all" &&
      config.bias() != "lora_only") {
    reader.refuse("bias", biases);
  }
  reader.read_list(
      "modules_to_save", "a list of names", config.modules_to_save());
  reader.read(
      "ensure_weight_tying", "true or false", config.ensure_weight_tying());
  reader.read("task_type", "a string", config.task_type());
  reader.read(
      "base_model_name_or_path", "a string", config.base_model_name_or_path());
  reader.read("revision", "a string", config.revision());
  reader.read("inference_mode", "true or false", config.inference_mode());
  if (const auto* value = reader.find("init_lora_weights")) {
    if (value->is_boolean()) {
      config.init_lora_weights(value->get<bool>());
    } else if (value->is_string()) {
      config.init_lora_weights(value->get<std::string>());
    } else {
      reader.refuse("init_lora_weights", "true, false or a name");
    }
  }

  read(reader, config.trainable_token_indices());
  read_nested_configs(values, file, config);

  const auto known = json::parse(adapter_config_json(LoraConfig()));
  for (const auto& [key, value] : values.items()) {
    if (!known.contains(key) && key != "runtime_config") {
      TORCH_WARN(
          "[load_adapter_config] ", file, ": the key ", key, " is not known");
      config.unknown_keys().emplace_back(key, value.dump());
    }
  }
  return config;
}

std::string adapter_config_json(const LoraConfig& config) {
  json values = indifferent_values();
  values.erase("runtime_config");
  for (const auto& [key, neutral] : neutral_values().items()) {
    values[key] = neutral[0];
  }
  values["peft_type"] = "LORA";
  values["peft_version"] = kPeftVersion;
  values["task_type"] = or_null(config.task_type());
  values["base_model_name_or_path"] = or_null(config.base_model_name_or_path());
  values["revision"] = or_null(config.revision());
  values["inference_mode"] = config.inference_mode();
  values["r"] = config.r();
  values["lora_alpha"] = number(config.lora_alpha());
  values["lora_dropout"] = config.lora_dropout();
  values["fan_in_fan_out"] = config.fan_in_fan_out();
  values["use_rslora"] = config.use_rslora();
  values["use_dora"] = config.use_dora();
  values["lora_bias"] = config.lora_bias();
  const auto& init = config.init_lora_weights();
  values["init_lora_weights"] =
      init.is_name() ? json(init.name()) : json(init.flag());
  write_nested_configs(config, values);
  values["target_modules"] = names(config.target_modules());
  values["target_parameters"] = or_null(config.target_parameters());
  values["exclude_modules"] = names(config.exclude_modules());
  values["layers_to_transform"] = or_null(config.layers_to_transform());
  values["layers_pattern"] = or_null(config.layers_pattern());
  values["layer_replication"] = or_null(config.layer_replication());
  values["rank_pattern"] = pattern(config.rank_pattern());
  values["alpha_pattern"] = pattern(config.alpha_pattern());
  values["modules_to_save"] = or_null(config.modules_to_save());
  values["trainable_token_indices"] = written(config.trainable_token_indices());
  values["bias"] = config.bias();
  values["ensure_weight_tying"] = config.ensure_weight_tying();
  for (const auto& [key, text] : config.unknown_keys()) {
    values[key] = json::parse(text);
  }
  return values.dump(2) + "\n";
}

} // namespace torchlora::io
