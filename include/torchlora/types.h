#pragma once

#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

namespace torchlora {

using at::Tensor;
using torch::nn::Module;

/// Tensors by name, in order.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

} // namespace torchlora
