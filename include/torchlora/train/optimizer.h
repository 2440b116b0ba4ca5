#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <torchlora/export.h>
#include <torchlora/train/arguments.h>

namespace torch::nn {
class Module;
} // namespace torch::nn
namespace torch::optim {
class AdamW;
} // namespace torch::optim

namespace torchlora::train {

/// Tensors by name, in order.
using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

/// `torch::optim::AdamW` with a group that is decayed and one that is not
/// (either may be absent).
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_adamw(
    const NamedTensors& parameters,
    const TrainingArguments& args);

/// `torch::optim::AdamW` over the trainable parameters of a model in the groups
/// of LoRA+ (optim/loraplus.h).
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_loraplus_adamw(
    const torch::nn::Module& model,
    const TrainingArguments& args);

/// Of each group.
TORCHLORA_API std::vector<double> learning_rates(
    const torch::optim::AdamW& optimizer);
/// Sets each group's to its peak times `factor`.
TORCHLORA_API void scale_learning_rates(
    torch::optim::AdamW& optimizer,
    const std::vector<double>& peaks,
    double factor);

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
