#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "device/device.h"

namespace torchlora {

/// The largest difference of two tensors of the same sizes, on any devices.
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b.to(a.device())).abs().max().item<double>();
}

/// What an error says; empty without one.
template <class Error = c10::ValueError>
std::string refusal(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what_without_backtrace();
  }
  return "";
}

/// What a model says to a configuration.
inline std::string refusal(torch::nn::Module& model, const LoraConfig& config) {
  return refusal([&] { get_peft_model(model, config); });
}

/// Changes what is trained, as training would, and not the same every time.
inline void disturb(const PeftModel& peft) {
  torch::NoGradGuard no_grad;
  for (auto& parameter : peft.trainable_parameters()) {
    parameter.add_(torch::randn_like(parameter), 0.3);
  }
}

/// Draws all tensors of an adapter, in the layers that have it.
inline void randomize(
    const PeftModel& peft,
    const std::string& adapter = "default",
    double std = 0.3) {
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    if (const auto* found = layer->find_adapter(adapter)) {
      for (auto& [key, tensor] : found->tensors()) {
        tensor.normal_(0, std);
      }
    }
  }
}

/// Collects the warnings of its lifetime.
struct Warnings : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    text += warning.msg() + "\n";
  }
  std::string text;
  c10::WarningUtils::WarningHandlerGuard guard{this};
};

/// The gradients of an adapter's tensors against a file's "<name>.grad.<key>".
inline void expect_gradients(
    const PeftModel& peft,
    const io::SafetensorsFile& reference,
    const std::string& name) {
  for (const auto& item : peft.state_dict()) {
    const auto key = name + ".grad." + item.key();
    ASSERT_EQ(item.value().grad().defined(), reference.contains(key)) << key;
    if (reference.contains(key)) {
      const auto gradient = reference.tensor(key);
      EXPECT_LT(
          difference(item.value().grad(), gradient),
          1e-5 * gradient.abs().max().item<double>())
          << key;
    }
  }
}

/// One case of a file in tests/data/lora.
class Goldens {
 public:
  Goldens(const std::string& file, const std::string& name)
      : file_(std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" / file),
        prefix_(name + "/") {}
  at::Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(prefix_ + name));
  }
  void expect(const at::Tensor& value, const std::string& name) const {
    const auto expected = golden(name);
    EXPECT_LT(
        difference(value, expected), 1e-5 * expected.abs().max().item<double>())
        << name;
  }

 private:
  io::SafetensorsFile file_;
  std::string prefix_;
};

} // namespace torchlora
