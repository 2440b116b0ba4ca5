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
    for (auto& tensor : layer->find_adapter(adapter)->tensors()) {
      tensor.add_(torch::randn_like(tensor), 0.2);
    }
  }
}

/// With the overlay and without.
class Overlay : public testing::TestWithParam<bool> {
 protected:
  Overlay() {
    set_weight_overlay(GetParam());
    torch::manual_seed(17);
  }
  void SetUp() override {
    if (GetParam() && !has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
  ~Overlay() override {
    set_weight_overlay(true);
  }
};
/// Of what a build without the overlay does not have.
class OverlayAlone : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_weight_overlay()) {
      GTEST_SKIP() << "no weight overlay";
    }
  }
};

/// Of a Linear that is adapted alone.
struct OneLayer {
  explicit OneLayer(LoraConfig config = LoraConfig(2)) {
    model->register_module("layer", layer);
    peft = std::make_unique<PeftModel>(
        get_peft_model(*model, config.target_modules({"layer"})));
    fill(*peft);
    peft->refresh_weights();
  }
  at::Tensor weight() const {
    return peft->layers()[0].second->adapted_weight();
  }
  std::shared_ptr<torch::nn::Module> model =
      std::make_shared<torch::nn::Module>("Model");
  torch::nn::Linear layer{torch::nn::LinearOptions(6, 4)};
  std::unique_ptr<PeftModel> peft;
};

} // namespace torchlora
