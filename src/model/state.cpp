#include "model/state.h"

#include <algorithm>

namespace torchlora {

std::vector<TunerSite> PeftState::tuner_layers() const {
  auto sites = torchlora::tuner_layers(*model);
  sites.push_back({"", "", saved});
  return sites;
}

std::vector<TunerSite> PeftState::own_layers() const {
  auto sites = token_sites(*model);
  sites.push_back({"", "", saved});
  return sites;
}

bool PeftState::has_own(const std::string& adapter_name) const {
  return std::ranges::any_of(own_layers(), [&](const auto& site) {
    return site.layer->has(adapter_name);
  });
}

} // namespace torchlora
