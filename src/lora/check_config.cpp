#include "lora/check_config.h"

#include <c10/util/Exception.h>

#include <torchlora/init/initializer.h>

namespace torchlora {

void check_config(const LoraConfig& config) {
  config.validate();
  init::check_own_config(config);
  TORCH_CHECK_VALUE(
      !config.lora_bias() ||
          (init::traits_of(config).supports_lora_bias && !config.use_dora()),
      "[LoraConfig] `lora_bias` is supported with init_lora_weights=true or "
      "false and without use_dora");
}

} // namespace torchlora
