#pragma once

#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"

namespace torchlora::test {

/// The model of tests/reference/make_optimizer_goldens.py.
struct GoldenNetImpl : torch::nn::Module {
  GoldenNetImpl() {
    table = register_module("table", nn::Embedding(20, 8));
    up = register_module("up", nn::Linear(8, 16));
    norm = register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({16})));
    down = register_module("down", nn::Linear(16, 6));
  }
  at::Tensor forward(const at::Tensor& ids) {
    return down(norm(up(table(ids)).tanh()));
  }
  nn::Embedding table{nullptr};
  nn::Linear up{nullptr}, down{nullptr};
  torch::nn::LayerNorm norm{nullptr};
};

/// One case of the goldens: the adapted model, trained as peft trained it.
class GoldenRun {
 public:
  GoldenRun(const std::string& name, const LoraConfig& config)
      : prefix_(name + "/"),
        model(test::make_module<GoldenNetImpl>()),
        peft(get_peft_model((model->to(at::kDouble), *model), config)) {
    torch::NoGradGuard no_grad;
    for (const auto& [key, value] : adapter_tensors()) {
      at::Tensor(value).copy_(golden("adapter." + key));
    }
    for (auto& item : model->named_parameters()) {
      auto key = item.key();
      if (const auto at = key.find("base_layer."); at != std::string::npos) {
        key.erase(at, 11);
      }
      if (key.find("lora_") == std::string::npos) {
        item.value().copy_(golden("base." + key));
      }
    }
  }

  at::Tensor golden(const std::string& key) const {
    return test::on_device(file_.tensor(prefix_ + key));
  }

  void train_and_compare(torch::optim::Optimizer& optimizer) {
    for (int step = 0; step < 5; ++step) {
      optimizer.zero_grad();
      const auto loss =
          (model->forward(golden("ids")) - golden("target")).square().mean();
      loss.backward();
      optimizer.step();
      EXPECT_NEAR(
          loss.item<double>(), golden("losses")[step].item<double>(), 1e-10);
    }
    for (const auto& [key, value] : adapter_tensors()) {
      expect_near(value, "trained." + key);
    }
    expect_near(model->norm->weight, "trained.norm.weight");
    expect_near(model->norm->bias, "trained.norm.bias");
  }

 private:
  std::vector<std::pair<std::string, at::Tensor>> adapter_tensors() const {
    std::vector<std::pair<std::string, at::Tensor>> result;
    for (const auto& item : peft.state_dict()) {
      result.emplace_back(
          item.key().substr(std::string("base_model.model.").size()),
          item.value());
    }
    return result;
  }
  void expect_near(const at::Tensor& value, const std::string& key) const {
    const auto expected = golden(key);
    EXPECT_LE(
        (value - expected).abs().max().item<double>(),
        1e-10 * expected.abs().max().item<double>())
        << key;
  }

  std::string prefix_;
  io::SafetensorsFile file_{
      std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" /
      "optimizers.safetensors"};

 public:
  std::shared_ptr<GoldenNetImpl> model;
  PeftModel peft;
};

} // namespace torchlora::test
