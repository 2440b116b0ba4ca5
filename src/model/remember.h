#pragma once

#include "lora/undo.h"
#include "model/sites.h"

namespace torchlora {

/// Makes `undo` give the adapter of a layer back what it has now, whatever
/// `replace_factors` and writing to its tensors will have changed. Does nothing
/// for a layer without the adapter.
inline void remember_adapter(
    Undo& undo,
    const TargetSite& site,
    const std::string& adapter_name) {
  const auto* adapter = site.layer->find_adapter(adapter_name);
  if (!adapter) {
    return;
  }
  std::vector<Tensor> values;
  for (const auto& [key, tensor] : adapter->tensors()) {
    values.push_back(tensor.detach().clone());
  }
  undo.add(
      "module " + site.name,
      [layer = site.layer, before = *adapter, values = std::move(values)] {
        const torch::NoGradGuard no_grad;
        layer->restore_adapter(before);
        const auto tensors = before.tensors();
        for (size_t i = 0; i < tensors.size(); ++i) {
          tensors[i].second.copy_(values[i]);
        }
      });
}

} // namespace torchlora
