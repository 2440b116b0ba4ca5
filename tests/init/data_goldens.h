#pragma once

#include <filesystem>

#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora::test {

/// The model of the goldens of EVA: `a` and `b` have the same input.
struct NetImpl : torch::nn::Module {
  at::Tensor forward(const at::Tensor& x) {
    const auto left = x.narrow(1, 0, 16), right = x.narrow(1, 16, 20);
    return at::cat({c(a(left).tanh()), b(left), d(right)}, 1);
  }
  nn::Linear a = register_module("a", nn::Linear(16, 12));
  nn::Linear b = register_module("b", nn::Linear(16, 8));
  nn::Linear c = register_module("c", nn::Linear(12, 10));
  nn::Linear d = register_module("d", nn::Linear(20, 6));
};

/// What tests/reference/make_initializer_goldens.py wrote.
inline io::SafetensorsFile data_goldens() {
  return io::SafetensorsFile(
      std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" /
      "data_initializers.safetensors");
}

} // namespace torchlora::test
