#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/train/arguments.h>

namespace torch::optim {
class AdamW;
} // namespace torch::optim

namespace torchlora::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// Whether transformers applies weight decay to the parameter of this name:
/// not to biases and norms. Every LoRA factor is decayed.
TORCHLORA_API bool has_weight_decay(std::string_view parameter_name);

/// `torch::optim::AdamW` with a group that is decayed and one that is not
/// (either may be absent).
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_adamw(
    const NamedTensors& parameters,
    const TrainingArguments& args);

TORCHLORA_API void set_learning_rate(
    torch::optim::AdamW& optimizer,
    double learning_rate);

/// The optimizer's state as tensors: `<parameter>.exp_avg`,
/// `<parameter>.exp_avg_sq` and `<parameter>.step`.
TORCHLORA_API NamedTensors
optimizer_state(torch::optim::AdamW& optimizer, const NamedTensors& parameters);

/// L2 norm of all gradients together.
TORCHLORA_API double grad_norm(const NamedTensors& parameters);
/// Multiplies the gradients by min(1, max_norm / (norm + 1e-6)).
TORCHLORA_API void
clip_gradients(const NamedTensors& parameters, double norm, double max_norm);

} // namespace torchlora::train
