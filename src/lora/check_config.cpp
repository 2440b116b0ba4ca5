#include "lora/check_config.h"

#include <c10/util/Exception.h>

#include <torchlora/init/initializer.h>

namespace torchlora {

void check_config(const LoraConfig& config) {
  config.validate();
  init::check_own_config(config);
  const auto& initializer = init::find_initializer(config.init_lora_weights());
  TORCH_CHECK_VALUE(
      !config.lora_bias() ||
          (initializer.traits.supports_lora_bias && !config.use_dora()),
      "[LoraConfig] `lora_bias` is not supported with ",
      config.use_dora() ? "use_dora" : "init_lora_weights=" + initializer.name);
}

} // namespace torchlora
