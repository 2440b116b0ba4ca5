// The table of variants. A variant is a header in lora/variants and a line
// here.
#include <torchlora/lora/variant.h>

#include <algorithm>
#include <array>

#include <torchlora/lora/variants/dora.h>
#include <torchlora/lora/variants/kasa.h>
#include <torchlora/lora/variants/velora.h>

namespace torchlora {

LoraVariant::~LoraVariant() = default;
DoraVariant::~DoraVariant() = default;
KasaVariant::~KasaVariant() = default;
VeloraVariant::~VeloraVariant() = default;

Tensor LoraVariant::forward(
    const LayerFunction& layer,
    const LayerCall& call,
    const Tensor& output,
    const ActiveUpdate& update) const {
  return output + layer.update(call, update);
}

bool modifies_base(const LoraConfig& config) {
  const auto* variant = find_variant(config);
  return init::traits_of(config).modifies_base ||
      (variant && variant->modifies_base);
}

const LoraVariantType* find_variant(const LoraConfig& config) {
  static const std::array types{
      KasaVariant::type(), VeloraVariant::type(), DoraVariant::type()};
  const auto found = std::find_if(
      types.begin(), types.end(), [&](const LoraVariantType& type) {
        return type.matches(config);
      });
  return found == types.end() ? nullptr : &*found;
}

} // namespace torchlora
