#pragma once

#include <string>
#include <vector>

#include <torch/nn/module.h>

#include <torchlora/export.h>

namespace torchlora::nn {

/// Names of the parameters and buffers that hold a NaN or an Inf. Bounds of
/// clamps (`input_min` …) may be infinite and are not named for that.
TORCHLORA_API std::vector<std::string> find_nonfinite(
    const torch::nn::Module& module);

/// The parameters that require a gradient, what an optimizer takes; one that
/// has several names is there once.
TORCHLORA_API std::vector<at::Tensor> trainable_parameters(
    const torch::nn::Module& module);

} // namespace torchlora::nn
