#include <torchlora/io/peft.h>

#include <cmath>
#include <optional>
#include <set>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

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
    "layer_replication": [null],
    "megatron_config": [null],
    "monteclora_config": [null],
    "trainable_token_indices": [null],
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

class Reader {
 public:
  Reader(const json& values, std::string file)
      : values_(values), file_(std::move(file)) {}

  /// Whether anybody asked for the key.
  bool was_read(const std::string& key) const {
    return read_.contains(key);
  }

  const json* find(const char* key) const {
    read_.insert(key);
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void refuse(const char* key, const char* expected) const {
    TORCHLORA_CHECK_DATA(
        false,
        "[load_adapter_config] ",
        file_,
        ": ",
        key,
        " must be ",
        expected,
        ", found ",
        values_[key].dump());
  }

  template <class T>
  void read(const char* key, const char* expected, T& target) const {
    if (const auto* value = find(key)) {
      try {
        target = value->get<T>();
      } catch (const json::exception&) {
        refuse(key, expected);
      }
    }
  }

  void read(const char* key, double& target) const {
    if (const auto* value = find(key)) {
      if (!value->is_number()) {
        refuse(key, "a number");
      }
      target = value->get<double>();
    }
  }

  void read(const char* key, ModuleNames& target) const {
    const auto* value = find(key);
    if (value && value->is_string()) {
      target = value->get<std::string>();
    } else if (value) {
      std::vector<std::string> names;
      read(key, "a list of names, a regular expression or null", names);
      target = names;
    }
  }

  void read(const char* key, LoraConfig::Pattern& target) const {
    if (const auto* value = find(key)) {
      if (!value->is_object()) {
        refuse(key, "an object");
      }
      for (const auto& [pattern, number] : value->items()) {
        if (!number.is_number()) {
          refuse(key, "an object of numbers");
        }
        target.emplace_back(pattern, number.get<double>());
      }
    }
  }

  /// A list, or one element alone.
  template <class T>
  void read_list(const char* key, const char* expected, std::vector<T>& target)
      const {
    if (const auto* value = find(key); value && !value->is_array()) {
      T single{};
      read(key, expected, single);
      target = {single};
    } else {
      read(key, expected, target);
    }
  }

 private:
  const json& values_;
  std::string file_;
  mutable std::set<std::string> read_;
};

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

VeloraConfig velora_config(
    const Reader& outer,
    const json& values,
    const std::string& file) {
  const json known{"num_groups", "scale", "init_type"};
  if (!values.is_object() ||
      std::any_of(
          values.items().begin(), values.items().end(), [&](const auto& item) {
            return std::find(known.begin(), known.end(), item.key()) ==
                known.end();
          })) {
    outer.refuse("velora_config", "an object of num_groups, scale, init_type");
  }
  VeloraConfig config;
  const Reader reader(values, file + ": velora_config");
  reader.read("num_groups", "a number", config.num_groups());
  reader.read("scale", config.scale());
  reader.read("init_type", "a string", config.init_type());
  return config;
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

/// Reads a nested configuration, if there is one; `ignored` are keys of PEFT
/// that make no difference here.
template <class Config, class Read>
void read_nested(
    const json& values,
    const std::string& file,
    const char* key,
    const std::set<std::string>& ignored,
    std::optional<Config>& target,
    const Read& read) {
  const auto found = values.find(key);
  if (found == values.end() || found->is_null() || found->empty()) {
    return;
  }
  TORCHLORA_CHECK_DATA(
      found->is_object(),
      "[load_adapter_config] ",
      file,
      ": ",
      key,
      " must be an object or null, found ",
      found->dump());
  target.emplace();
  const Reader reader(*found, file + ": " + key);
  read(reader, *target);
  for (const auto& [nested, value] : found->items()) {
    if (!reader.was_read(nested) && !ignored.contains(nested)) {
      TORCH_WARN(
          "[load_adapter_config] ",
          file,
          ": the key ",
          key,
          ".",
          nested,
          " is not known");
    }
  }
}

void read_init_configs(
    const json& values,
    const std::string& file,
    LoraConfig& config) {
  read_nested(
      values,
      file,
      "corda_config",
      {"cache_file",
       "covariance_file",
       "verbose",
       "use_float16_for_covariance",
       "prune_temporary_fields"},
      config.corda_config(),
      [](const Reader& reader, CordaConfig& corda) {
        reader.read("corda_method", "a string", corda.corda_method());
      });
  read_nested(
      values,
      file,
      "lora_ga_config",
      {},
      config.lora_ga_config(),
      [](const Reader& reader, LoraGAConfig& lora_ga) {
        reader.read("direction", "a string", lora_ga.direction());
        reader.read("scale", "a string", lora_ga.scale());
        reader.read("stable_gamma", "a number", lora_ga.stable_gamma());
      });
  read_nested(
      values,
      file,
      "loftq_config",
      {},
      config.loftq_config(),
      [](const Reader& reader, LoftQConfig& loftq) {
        reader.read("loftq_bits", "a number", loftq.loftq_bits());
        reader.read("loftq_iter", "a number", loftq.loftq_iter());
      });
  read_nested(
      values,
      file,
      "eva_config",
      {"use_label_mask", "label_mask_value"},
      config.eva_config(),
      [](const Reader& reader, EvaConfig& eva) {
        reader.read("rho", eva.rho());
        reader.read("tau", eva.tau());
        reader.read("whiten", "true or false", eva.whiten());
        reader.read(
            "adjust_scaling_factors",
            "true or false",
            eva.adjust_scaling_factors());
      });
}

/// What PEFT has and nothing here stands for is left out: it takes its default.
void write_init_configs(const LoraConfig& config, json& values) {
  values["corda_config"] = json();
  values["lora_ga_config"] = json();
  values["loftq_config"] = json::object();
  values["eva_config"] = json();
  if (const auto& corda = config.corda_config()) {
    values["corda_config"] = {{"corda_method", corda->corda_method()}};
  }
  if (const auto& lora_ga = config.lora_ga_config()) {
    values["lora_ga_config"] = {
        {"direction", lora_ga->direction()},
        {"scale", lora_ga->scale()},
        {"stable_gamma", lora_ga->stable_gamma()}};
  }
  if (const auto& loftq = config.loftq_config()) {
    values["loftq_config"] = {
        {"loftq_bits", loftq->loftq_bits()},
        {"loftq_iter", loftq->loftq_iter()}};
  }
  if (const auto& eva = config.eva_config()) {
    values["eva_config"] = {
        {"rho", eva->rho()},
        {"tau", eva->tau()},
        {"whiten", eva->whiten()},
        {"adjust_scaling_factors", eva->adjust_scaling_factors()}};
  }
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
  const Reader reader(values, file);
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
    }
  }

  if (const auto* value = reader.find("velora_config")) {
    config.velora_config(velora_config(reader, *value, file));
  }
  read_init_configs(values, file, config);

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
  values["velora_config"] = nullptr;
  if (const auto& velora = config.velora_config()) {
    values["velora_config"] = {
        {"num_groups", velora->num_groups()},
        {"scale", velora->scale()},
        {"init_type", velora->init_type()}};
  }
  const auto& init = config.init_lora_weights();
  values["init_lora_weights"] =
      init.is_name() ? json(init.name()) : json(init.flag());
  write_init_configs(config, values);
  values["target_modules"] = names(config.target_modules());
  values["target_parameters"] = or_null(config.target_parameters());
  values["exclude_modules"] = names(config.exclude_modules());
  values["layers_to_transform"] = or_null(config.layers_to_transform());
  values["layers_pattern"] = or_null(config.layers_pattern());
  values["rank_pattern"] = pattern(config.rank_pattern());
  values["alpha_pattern"] = pattern(config.alpha_pattern());
  values["modules_to_save"] = or_null(config.modules_to_save());
  values["bias"] = config.bias();
  values["ensure_weight_tying"] = config.ensure_weight_tying();
  for (const auto& [key, text] : config.unknown_keys()) {
    values[key] = json::parse(text);
  }
  return values.dump(2) + "\n";
}

} // namespace torchlora::io
