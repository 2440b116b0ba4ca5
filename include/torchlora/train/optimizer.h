#pragma once

#include <memory>
#include <utility>
#include <vector>

#include <torchlora/tensor.h>

#include <torchlora/train/arguments.h>

namespace torch::nn {
class Module;
} // namespace torch::nn
namespace torch::optim {
class AdamW;
} // namespace torch::optim

namespace torchlora::train {

/// Tensors with their names.
using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// Makes an AdamW with up to two groups: parameters with weight decay and
/// parameters without (optim/weight_decay.h). An empty group is left out.
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_adamw(
    const NamedTensors& parameters,
    const TrainingArguments& args);

/// Makes an AdamW over the trainable parameters of `model` in the groups of
/// LoRA+ (optim/loraplus.h).
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_loraplus_adamw(
    const torch::nn::Module& model,
    const TrainingArguments& args);

/// Returns the learning rate of each group.
TORCHLORA_API std::vector<double> learning_rates(
    const torch::optim::AdamW& optimizer);
/// Sets the learning rate of each group to its peak times `factor`.
TORCHLORA_API void scale_learning_rates(
    torch::optim::AdamW& optimizer,
    const std::vector<double>& peaks,
    double factor);

/// Returns the state of the optimizer as tensors `<parameter>.exp_avg`,
/// `<parameter>.exp_avg_sq` and `<parameter>.step`.
TORCHLORA_API NamedTensors
optimizer_state(torch::optim::AdamW& optimizer, const NamedTensors& parameters);

/// Returns the L2 norm of all gradients together.
TORCHLORA_API double grad_norm(const NamedTensors& parameters);
/// Multiplies the gradients by min(1, max_norm / (norm + 1e-6)).
TORCHLORA_API void
clip_gradients(const NamedTensors& parameters, double norm, double max_norm);

} // namespace torchlora::train
