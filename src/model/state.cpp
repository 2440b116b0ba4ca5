#include "model/state.h"

#include <algorithm>

#include <torch/types.h>

namespace torchlora {

std::vector<TunerSite> PeftState::tuner_layers() const {
  auto sites = torchlora::tuner_layers(*model);
  sites.push_back({"", "", saved});
  return sites;
}

bool PeftState::has_own(const std::string& adapter_name) const {
  return std::ranges::any_of(tuner_layers(), [&](const auto& site) {
    return !dynamic_cast<LoraLayer*>(site.layer.get()) &&
        site.layer->has(adapter_name);
  });
}

} // namespace torchlora
