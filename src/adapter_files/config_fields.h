#pragma once

// The keys of adapter_config.json, one line per key, for reading and writing.
//
// `visit_fields` names every key that PEFT 0.21.2 writes together with the
// field of `LoraConfig` behind it. A visitor (`ConfigReader`, `ConfigWriter`)
// does the rest by the type of the field. Beside plain fields a visitor has
//   number(key, field)       a double that is written as an integer if it is
//   list(key, field)         a list, for which a file may have one element
//   nested(key, field, …)    an object, which PEFT has as a configuration
//   unsupported(key, value)  a feature that torchlora lacks, and the value that
//                            does not ask for it; reading refuses any other
//   constant(key, value)     written always, ignored when read
//   ignored(key)             ignored when read

#include <nlohmann/json.hpp>

namespace torchlora {

/// Visits every key. `Config` is `LoraConfig` or `const LoraConfig`.
template <class Visitor, class Config>
void visit_fields(Visitor& visit, Config& config) {
  visit.constant("peft_type", "LORA");
  visit.constant("peft_version", "0.21.2");
  visit("r", config.r());
  visit.number("lora_alpha", config.lora_alpha());
  visit("lora_dropout", config.lora_dropout());
  visit("fan_in_fan_out", config.fan_in_fan_out());
  visit("use_rslora", config.use_rslora());
  visit("use_dora", config.use_dora());
  visit("lora_bias", config.lora_bias());
  visit("init_lora_weights", config.init_lora_weights());
  visit("target_modules", config.target_modules());
  visit("target_parameters", config.target_parameters());
  visit("exclude_modules", config.exclude_modules());
  visit.list("layers_to_transform", config.layers_to_transform());
  visit.list("layers_pattern", config.layers_pattern());
  visit("layer_replication", config.layer_replication());
  visit("rank_pattern", config.rank_pattern());
  visit("alpha_pattern", config.alpha_pattern());
  visit.list("modules_to_save", config.modules_to_save());
  visit("trainable_token_indices", config.trainable_token_indices());
  visit("bias", config.bias());
  visit("ensure_weight_tying", config.ensure_weight_tying());
  visit("task_type", config.task_type());
  visit("base_model_name_or_path", config.base_model_name_or_path());
  visit("revision", config.revision());
  visit("inference_mode", config.inference_mode());

  visit.nested(
      "corda_config", config.corda_config(), [](auto& nested, auto& corda) {
        nested("corda_method", corda.corda_method());
        nested.ignored("cache_file");
        nested.ignored("covariance_file");
        nested.ignored("prune_temporary_fields");
        nested.ignored("use_float16_for_covariance");
        nested.ignored("verbose");
      });
  visit.nested(
      "lora_ga_config",
      config.lora_ga_config(),
      [](auto& nested, auto& lora_ga) {
        nested("direction", lora_ga.direction());
        nested("scale", lora_ga.scale());
        nested("stable_gamma", lora_ga.stable_gamma());
      });
  visit.nested(
      "loftq_config",
      config.loftq_config(),
      [](auto& nested, auto& loftq) {
        nested("loftq_bits", loftq.loftq_bits());
        nested("loftq_iter", loftq.loftq_iter());
      },
      /*none=*/nlohmann::json::object());
  visit.nested("eva_config", config.eva_config(), [](auto& nested, auto& eva) {
    nested("rho", eva.rho());
    nested("tau", eva.tau());
    nested("whiten", eva.whiten());
    nested("adjust_scaling_factors", eva.adjust_scaling_factors());
    nested.ignored("label_mask_value");
    nested.ignored("use_label_mask");
  });
  visit.nested(
      "velora_config", config.velora_config(), [](auto& nested, auto& velora) {
        nested("num_groups", velora.num_groups());
        nested("scale", velora.scale());
        nested("init_type", velora.init_type());
      });
  visit.nested(
      "kasa_config", config.kasa_config(), [](auto& nested, auto& kasa) {
        nested("beta", kasa.beta());
        nested("gamma", kasa.gamma());
      });

  visit.unsupported("alora_invocation_tokens", nullptr);
  visit.unsupported("arrow_config", nullptr);
  visit.unsupported("megatron_config", nullptr);
  visit.unsupported("monteclora_config", nullptr);
  visit.unsupported("use_bdlora", nullptr);
  visit.unsupported("use_qalora", false);

  visit.constant("auto_mapping", nullptr);
  visit.constant("megatron_core", "megatron.core");
  visit.constant("qalora_group_size", 16);
  visit.ignored("runtime_config");
}

} // namespace torchlora
