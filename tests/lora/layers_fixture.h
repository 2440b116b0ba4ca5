#pragma once

#include <string>

#include "lora/layer_suite.h"

namespace torchlora::test {

/// Makes the update of each layer a tenth of its weight's norm.
inline void fill_update(
    PeftModel& peft,
    const std::string& adapter = "default") {
  torch::NoGradGuard no_grad;
  for (auto& [name, layer] : peft.layers()) {
    const LoraAdapter* found = layer->find_adapter(adapter);
    if (!found) {
      continue;
    }
    found->lora_A->weight.normal_();
    found->lora_B->weight.normal_();
    const auto weight = layer->base_weight().weight();
    found->lora_B->weight.mul_(
        0.1 * weight.norm() / layer->get_delta_weight(adapter).norm());
  }
}

template <class Type>
class LoraLayers : public LayerSuite<Type> {
 protected:
  LoraLayers() : LayerSuite<Type>(7) {}
  void cast(at::ScalarType dtype) {
    this->model_->to(dtype);
    if (this->x_.is_floating_point()) {
      this->x_ = this->x_.to(dtype);
    }
  }
};

} // namespace torchlora::test
