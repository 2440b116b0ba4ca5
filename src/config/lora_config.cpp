#include <torchlora/config/lora_config.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <initializer_list>
#include <limits>

#include <c10/util/Exception.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

namespace torchlora {
namespace {

/// No layer has a larger one; what is above overflows in the sizes of factors.
constexpr int64_t kLargestRank = std::numeric_limits<int32_t>::max();

void check_one_of(
    const char* config,
    const char* field,
    const std::string& value,
    std::initializer_list<const char*> allowed) {
  TORCH_CHECK_VALUE(
      std::ranges::find(allowed, value) != allowed.end(),
      fmt::format(
          "[{}] `{}` must be one of '{}', found '{}'",
          config,
          field,
          fmt::join(allowed, "', '"),
          value));
}

} // namespace

bool ModuleNames::is_all_linear() const {
  if (!is_regex()) {
    return false;
  }
  std::string lower = regex();
  std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
    return static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  });
  return lower == "all-linear";
}

void CordaConfig::validate() const {
  check_one_of("CordaConfig", "corda_method", corda_method_, {"ipm", "kpm"});
}

void LoraGAConfig::validate() const {
  check_one_of(
      "LoraGAConfig",
      "direction",
      direction_,
      {"ArBr", "A2rBr", "ArB2r", "random"});
  check_one_of(
      "LoraGAConfig",
      "scale",
      scale_,
      {"stable", "weight_svd", "gd_scale", "unit"});
  TORCH_CHECK_VALUE(
      stable_gamma_ > 0,
      "[LoraGAConfig] `stable_gamma` must be positive, found ",
      stable_gamma_);
}

void LoftQConfig::validate() const {
  TORCH_CHECK_VALUE(
      loftq_bits_ == 4 || loftq_bits_ == 8,
      "[LoftQConfig] `loftq_bits` must be 4 or 8, found ",
      loftq_bits_);
  TORCH_CHECK_VALUE(
      loftq_iter_ > 0,
      "[LoftQConfig] `loftq_iter` must be greater than 0, found ",
      loftq_iter_);
}

void EvaConfig::validate() const {
  TORCH_CHECK_VALUE(
      std::isfinite(rho_) && rho_ >= 1,
      "[EvaConfig] `rho` must be >= 1.0 and finite, found ",
      rho_);
  TORCH_CHECK_VALUE(
      tau_ >= 0 && tau_ <= 1,
      "[EvaConfig] `tau` must be between 0.0 and 1.0, found ",
      tau_);
}

void VeloraConfig::validate() const {
  TORCH_CHECK_VALUE(
      num_groups_ > 0,
      "[VeloraConfig] `num_groups` should be positive, got ",
      num_groups_);
  TORCH_CHECK_VALUE(
      std::isfinite(scale_) && scale_ > 0,
      "[VeloraConfig] `scale` should be positive, got ",
      scale_);
  check_one_of(
      "VeloraConfig",
      "init_type",
      init_type_,
      {"batch_average", "batch_average_once", "random"});
}

void KasaConfig::validate() const {
  TORCH_CHECK_VALUE(
      std::isfinite(beta_) && beta_ >= 0 && std::isfinite(gamma_) &&
          gamma_ >= 0,
      "[KasaConfig] `beta` and `gamma` must be non-negative and finite, got ",
      beta_,
      " and ",
      gamma_);
}

void LoraConfig::validate() const {
  TORCH_CHECK_VALUE(
      r_ > 0,
      "[LoraConfig] `r` should be a positive integer value but the value "
      "passed is ",
      r_);
  TORCH_CHECK_VALUE(
      r_ <= kLargestRank,
      "[LoraConfig] `r` should be at most ",
      kLargestRank,
      " but the value passed is ",
      r_);
  TORCH_CHECK_VALUE(
      std::isfinite(lora_alpha_),
      "[LoraConfig] `lora_alpha` should be a finite number but the value "
      "passed is ",
      lora_alpha_);
  TORCH_CHECK_VALUE(
      lora_dropout_ >= 0 && lora_dropout_ < 1,
      "[LoraConfig] `lora_dropout` should be at least 0 and less than 1 but "
      "the value passed is ",
      lora_dropout_);
  for (const auto& [pattern, rank] : rank_pattern_) {
    TORCH_CHECK_VALUE(
        rank > 0 && rank == std::floor(rank) &&
            rank <= static_cast<double>(kLargestRank),
        "[LoraConfig] `rank_pattern` must give positive integers, at most ",
        kLargestRank,
        ", got ",
        rank,
        " for ",
        pattern);
  }
  for (const auto& [pattern, alpha] : alpha_pattern_) {
    TORCH_CHECK_VALUE(
        std::isfinite(alpha),
        "[LoraConfig] `alpha_pattern` must give finite numbers, got ",
        alpha,
        " for ",
        pattern);
  }
  const auto& targets = target_modules_;
  TORCH_CHECK_VALUE(
      !targets.is_regex() || layers_to_transform_.empty(),
      "[LoraConfig] `layers_to_transform` cannot be used when "
      "`target_modules` is a str.");
  TORCH_CHECK_VALUE(
      !targets.is_regex() || layers_pattern_.empty(),
      "[LoraConfig] `layers_pattern` cannot be used when `target_modules` is "
      "a str.");
  TORCH_CHECK_VALUE(
      layers_pattern_.empty() || !layers_to_transform_.empty(),
      "[LoraConfig] When `layers_pattern` is specified, `layers_to_transform` "
      "must also be specified.");
  check_one_of("LoraConfig", "bias", bias_, {"none", "all", "lora_only"});
  TORCH_CHECK_VALUE(
      bias_ == "none" || layer_replication_.empty(),
      "[LoraConfig] layer_replication and bias \"",
      bias_,
      "\" do not go together: biases that layers share would be trained apart");
  TORCH_CHECK_VALUE(
      bias_ == "none" || !lora_bias_,
      "[LoraConfig] lora_bias and bias \"",
      bias_,
      "\" do not go together: one layer would train two biases");
  const auto check = [](const auto& config) {
    if (config) {
      config->validate();
    }
  };
  check(corda_config_);
  check(lora_ga_config_);
  check(loftq_config_);
  check(eva_config_);
  check(velora_config_);
  check(kasa_config_);
}

LoraConfig& LoraConfig::forget_initializer() & {
  return init_lora_weights(true)
      .corda_config(std::nullopt)
      .lora_ga_config(std::nullopt)
      .loftq_config(std::nullopt)
      .eva_config(std::nullopt);
}

LoraConfig& LoraConfig::forget_variant() & {
  return use_dora(false).velora_config(std::nullopt).kasa_config(std::nullopt);
}

} // namespace torchlora
