#include "lora/check_config.h"

#include <algorithm>

#include <c10/util/Exception.h>

#include <torchlora/init/initializer.h>

#include "text/utf8.h"

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

void check_adapter_name(const std::string& adapter_name, const char* function) {
  const auto is_bad = [](char c) {
    return c == '.' || c == '/' || c == '\\' || c == 0x7f ||
        static_cast<unsigned char>(c) < 0x20;
  };
  TORCH_CHECK_VALUE(
      !adapter_name.empty() && std::ranges::none_of(adapter_name, is_bad),
      "[",
      function,
      "] an adapter name must not be empty or contain a dot, a slash, a "
      "backslash or a control character, as it is part of parameter names "
      "and the name of a folder; got \"",
      detail::printable(adapter_name, /*kept=*/""),
      "\"");
  TORCH_CHECK_VALUE(
      adapter_name != kBaseAdapter,
      "[",
      function,
      "] the adapter name \"",
      kBaseAdapter,
      "\" stands for no adapter in a mixed batch; choose another one");
}

} // namespace torchlora
