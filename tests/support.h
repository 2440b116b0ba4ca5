#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>

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
