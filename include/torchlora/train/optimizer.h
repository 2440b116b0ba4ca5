#pragma once

#include <memory>

#include <torchlora/train/arguments.h>
#include <torchlora/types.h>

namespace torch::optim {
class AdamW;
} // namespace torch::optim

namespace torchlora::train {

/// Returns an AdamW for `parameters`, with the options in `args`. Biases and
/// norms, which have no weight decay (optim/weight_decay.h), form a parameter
/// group of their own. Leaves out an empty group.
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_adamw(
    const NamedTensors& parameters,
    const TrainingArguments& args);

/// Returns an AdamW for the trainable parameters of `model` in the parameter
/// groups of LoRA+ (optim/loraplus.h), with the options in `args`.
TORCHLORA_API std::unique_ptr<torch::optim::AdamW> make_loraplus_adamw(
    const Module& model,
    const TrainingArguments& args);

/// Returns the learning rate of each parameter group of `optimizer`.
TORCHLORA_API std::vector<double> learning_rates(
    const torch::optim::AdamW& optimizer);
/// Sets the learning rate of parameter group i of `optimizer` to `peaks[i]` ·
/// `factor`.
TORCHLORA_API void scale_learning_rates(
    torch::optim::AdamW& optimizer,
    const std::vector<double>& peaks,
    double factor);

/// Returns the state that `optimizer` has for `parameters`, to save it: the
/// tensors `<name>.exp_avg`, `<name>.exp_avg_sq` and `<name>.step` of each
/// parameter that was stepped.
TORCHLORA_API NamedTensors
optimizer_state(torch::optim::AdamW& optimizer, const NamedTensors& parameters);

/// Returns the L2 norm of the gradients of all `parameters` together, a scalar
/// (fp64 where there is that) on the device of the first gradient; 0 if there
/// is no gradient.
TORCHLORA_API Tensor grad_norm(const NamedTensors& parameters);
/// Multiplies the gradients of `parameters` by min(1, max_norm / (norm +
/// 1e-6)), where `norm` is what `grad_norm` returned. Nothing waits for the
/// device.
TORCHLORA_API void clip_gradients(
    const NamedTensors& parameters,
    const Tensor& norm,
    double max_norm);

} // namespace torchlora::train
