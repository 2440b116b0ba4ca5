#include "model/state.h"

#include <algorithm>

#include "model/inject.h"

namespace torchlora {

void PeftState::warn_of_running_statistics(
    const InjectionPlan& plan,
    const char* function) {
  has_warned =
      has_warned || torchlora::warn_of_running_statistics(plan, function);
}

void PeftState::check_not_empty(const char* function) const {
  TORCH_CHECK_VALUE(
      !adapters.all().empty(),
      "[",
      function,
      "] the model has no adapter any more: ",
      emptied_by,
      " removed it; add one by add_adapter or load_adapter first");
}

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
