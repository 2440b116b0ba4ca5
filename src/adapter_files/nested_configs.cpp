#include "adapter_files/nested_configs.h"

#include <optional>
#include <set>

#include "adapter_files/config_reader.h"

namespace torchlora::io {
using nlohmann::json;

namespace {

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
  const ConfigReader reader(*found, file + ": " + key);
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

} // namespace

void read_nested_configs(
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
      [](const ConfigReader& reader, CordaConfig& corda) {
        reader.read("corda_method", "a string", corda.corda_method());
      });
  read_nested(
      values,
      file,
      "lora_ga_config",
      {},
      config.lora_ga_config(),
      [](const ConfigReader& reader, LoraGAConfig& lora_ga) {
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
      [](const ConfigReader& reader, LoftQConfig& loftq) {
        reader.read("loftq_bits", "a number", loftq.loftq_bits());
        reader.read("loftq_iter", "a number", loftq.loftq_iter());
      });
  read_nested(
      values,
      file,
      "eva_config",
      {"use_label_mask", "label_mask_value"},
      config.eva_config(),
      [](const ConfigReader& reader, EvaConfig& eva) {
        reader.read("rho", eva.rho());
        reader.read("tau", eva.tau());
        reader.read("whiten", "true or false", eva.whiten());
        reader.read(
            "adjust_scaling_factors",
            "true or false",
            eva.adjust_scaling_factors());
      });
  read_nested(
      values,
      file,
      "velora_config",
      {},
      config.velora_config(),
      [](const ConfigReader& reader, VeloraConfig& velora) {
        reader.read("num_groups", "a number", velora.num_groups());
        reader.read("scale", velora.scale());
        reader.read("init_type", "a string", velora.init_type());
      });
}

void write_nested_configs(const LoraConfig& config, json& values) {
  values["corda_config"] = json();
  values["lora_ga_config"] = json();
  values["loftq_config"] = json::object();
  values["eva_config"] = json();
  values["velora_config"] = json();
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
  if (const auto& velora = config.velora_config()) {
    values["velora_config"] = {
        {"num_groups", velora->num_groups()},
        {"scale", velora->scale()},
        {"init_type", velora->init_type()}};
  }
}

} // namespace torchlora::io
