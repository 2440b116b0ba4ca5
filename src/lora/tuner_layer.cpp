#include <torchlora/lora/tuner_layer.h>

#include <algorithm>
#include <set>
#include <typeinfo>

#include <c10/core/DeviceType.h>
#include <c10/util/Type.h>
#include <torch/types.h>

namespace torchlora {

TunerLayer::~TunerLayer() = default;

void TunerLayer::check_set_adapter(
    const std::vector<std::string>& /*adapter_names*/) const {}

void TunerLayer::fill(TunerLayerStatus& status) const {
  status.module_type = c10::demangle(typeid(*this).name());
  status.enabled = adapters_enabled();
  status.active_adapters = active_adapters();
  status.merged_adapters = merged_adapters();
  status.available_adapters = adapter_names();
  std::ranges::sort(status.available_adapters);
  for (const auto& name : status.available_adapters) {
    const auto state = adapter_state(name);
    std::set<std::string> devices;
    size_t training = 0;
    for (const auto& [key, tensor] : state) {
      training += tensor.requires_grad();
      devices.insert(
          c10::DeviceTypeName(tensor.device().type(), /*lower_case=*/true));
    }
    status.requires_grad[name] = training == 0 ? Consistency::kFalse
        : training == state.size()             ? Consistency::kTrue
                                               : Consistency::kIrregular;
    status.devices[name] = {devices.begin(), devices.end()};
  }
}

} // namespace torchlora
