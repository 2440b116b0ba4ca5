#include "model/requirements.h"

namespace torchlora {
namespace {

/// Why the adapter is not as required; "" if it is.
const char* why_not(
    Requirement requirement,
    const PeftState& state,
    const std::vector<TargetSite>& sites,
    const std::string& adapter_name) {
  if (requirement == Requirement::kNoOwnTensors) {
    return state.has_own(adapter_name)
        ? "has modules_to_save, biases or rows of tables of its own"
        : "";
  }
  for (const auto& site : sites) {
    if (requirement == Requirement::kNothingMerged && site.layer->merged()) {
      return "cannot be used while adapters are merged";
    }
    const auto* adapter = site.layer->find_adapter(adapter_name);
    if (!adapter) {
      continue;
    }
    if (requirement == Requirement::kSum && !adapter->is_additive()) {
      return "is a DoRA, whose update is not a sum";
    }
    if (requirement == Requirement::kUnchangedBase && adapter->changed_base) {
      return "changed the base weights when it was made";
    }
    if (requirement == Requirement::kNoParameters &&
        site.kind == TargetSite::kParameter) {
      return "has target_parameters";
    }
    if (requirement == Requirement::kUnmerged &&
        site.layer->states().is_merged(adapter_name)) {
      return "is merged";
    }
  }
  return "";
}

} // namespace

void require(
    Requirement requirement,
    const char* function,
    PeftState& state,
    const std::vector<TargetSite>& sites,
    const std::string& adapter_name,
    const char* hint) {
  state.adapters.at(adapter_name, function);
  const auto* reason = why_not(requirement, state, sites, adapter_name);
  TORCH_CHECK_VALUE(
      !*reason, "[", function, "] adapter ", adapter_name, " ", reason, hint);
}

} // namespace torchlora
