#pragma once

#include <memory>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/model.h>

#include "support.h"

namespace torchlora {

inline void fill(PeftModel& peft, const std::string& adapter = "default") {
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    for (auto& [key, tensor] : layer->find_adapter(adapter)->tensors()) {
      tensor.add_(torch::randn_like(tensor), 0.2);
    }
  }
}

class Overlay : public testing::Test {
 protected:
  Overlay() {
    torch::manual_seed(17);
  }
  void SetUp() override {
    if (!has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
};

/// A Linear that is adapted alone.
struct OneLayer {
  explicit OneLayer(LoraConfig config = LoraConfig(2)) {
    model->register_module("layer", layer);
    peft = std::make_unique<PeftModel>(
        get_peft_model(*model, config.target_modules({"layer"})));
    fill(*peft);
  }
  at::Tensor weight() const {
    return peft->layers()[0].second->adapted_weight();
  }
  std::shared_ptr<torch::nn::Module> model =
      std::make_shared<torch::nn::Module>("Model");
  torch::nn::Linear layer = test::on_device(torch::nn::Linear(6, 4));
  std::unique_ptr<PeftModel> peft;
};

} // namespace torchlora
