#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/model.h>

namespace torchlora {

/// The largest difference of two tensors of the same sizes.
inline double difference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

/// What a ValueError says; empty without one.
inline std::string refusal(const std::function<void()>& run) {
  try {
    run();
  } catch (const c10::ValueError& e) {
    return e.what_without_backtrace();
  }
  return "";
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
    return file_.tensor(prefix_ + name);
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
