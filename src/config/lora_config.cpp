#include <torchlora/config/lora_config.h>

#include <algorithm>
#include <cctype>
#include <cmath>

#include <c10/util/Exception.h>

namespace torchlora {

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

void VeloraConfig::validate() const {
  TORCH_CHECK_VALUE(
      num_groups_ > 0,
      "[VeloraConfig] `num_groups` should be positive, got ",
      num_groups_);
  TORCH_CHECK_VALUE(
      std::isfinite(scale_) && scale_ > 0,
      "[VeloraConfig] `scale` should be positive, got ",
      scale_);
  TORCH_CHECK_VALUE(
      init_type_ == "batch_average" || init_type_ == "batch_average_once" ||
          init_type_ == "random",
      "[VeloraConfig] unsupported `init_type` \"",
      init_type_,
      "\"; it must be batch_average, batch_average_once or random");
}

LoraConfig& LoraConfig::forget_initializer() {
  return init_lora_weights(true)
      .corda_config(std::nullopt)
      .lora_ga_config(std::nullopt)
      .loftq_config(std::nullopt)
      .eva_config(std::nullopt);
}

} // namespace torchlora
