#include "adapter_files/weight_conversion.h"

#include <cmath>

#include <torch/types.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>

namespace torchlora {
namespace {

/// Returns the dimension along which a factor grows; -1 for other tensors.
int concatenated_dim(const std::string& key) {
  if (key.ends_with(".lora_A.weight") || key.ends_with(".lora_embedding_A")) {
    return 0;
  }
  return key.ends_with(".lora_B.weight") || key.ends_with(".lora_embedding_B")
      ? 1
      : -1;
}

void multiply(LoraConfig::Pattern& pattern, double factor) {
  for (auto& [key, value] : pattern) {
    value *= factor;
  }
}

} // namespace

void convert_to_plain_lora(
    NamedTensors& tensors,
    LoraConfig& config,
    const std::filesystem::path& initial) {
  const io::SafetensorsFile file(initial / "adapter_model.safetensors");
  for (auto& [key, tensor] : tensors) {
    const int dim = concatenated_dim(key);
    if (dim < 0) {
      continue;
    }
    TORCHLORA_CHECK_DATA(
        file.contains(key) && file.sizes(key) == tensor.sizes(),
        "[save_pretrained] ",
        file.path().string(),
        " is not the same adapter before training: ",
        key,
        file.contains(key) ? " has other sizes" : " is missing");
    const auto first = file.tensor(key).to(tensor.options());
    tensor = at::cat({tensor.detach(), dim == 0 ? first : first.neg()}, dim);
  }
  // The scaling stays: alpha / r, with rsLoRA alpha / √r.
  const double alphas = config.use_rslora() ? std::sqrt(2.0) : 2.0;
  config.r(2 * config.r());
  config.lora_alpha(alphas * config.lora_alpha());
  multiply(config.rank_pattern(), 2);
  multiply(config.alpha_pattern(), alphas);
  config.forget_initializer();
}

} // namespace torchlora
