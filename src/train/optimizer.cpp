#include <torchlora/train/optimizer.h>

#include <torch/optim/adamw.h>
#include <torch/types.h>

#include <torchlora/optim/loraplus.h>
#include <torchlora/optim/weight_decay.h>

#include "train/to_host.h"

namespace torchlora::train {

namespace {

std::vector<Tensor> gradients(const NamedTensors& parameters) {
  std::vector<Tensor> result;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined()) {
      result.push_back(parameter.grad());
    }
  }
  return result;
}

} // namespace

std::unique_ptr<torch::optim::AdamW> make_adamw(
    const NamedTensors& parameters,
    const TrainingArguments& args) {
  std::vector<torch::optim::OptimizerParamGroup> groups;
  for (const bool decayed : {true, false}) {
    std::vector<Tensor> group;
    for (const auto& [name, parameter] : parameters) {
      if (has_weight_decay(name) == decayed) {
        group.push_back(parameter);
      }
    }
    if (!group.empty()) {
      auto options = std::make_unique<torch::optim::AdamWOptions>(
          torch::optim::AdamWOptions(args.learning_rate)
              .betas({args.adam_beta1, args.adam_beta2})
              .eps(args.adam_epsilon)
              .weight_decay(decayed ? args.weight_decay : 0));
      groups.emplace_back(std::move(group), std::move(options));
    }
  }
  return std::make_unique<torch::optim::AdamW>(
      std::move(groups), torch::optim::AdamWOptions(args.learning_rate));
}

std::unique_ptr<torch::optim::AdamW> make_loraplus_adamw(
    const Module& model,
    const TrainingArguments& args) {
  return create_loraplus_optimizer<torch::optim::AdamW>(
      model,
      torch::optim::AdamWOptions(args.learning_rate)
          .betas({args.adam_beta1, args.adam_beta2})
          .eps(args.adam_epsilon),
      LoraPlusOptions(args.loraplus_lr_ratio)
          .loraplus_weight_decay(args.loraplus_weight_decay)
          .loraplus_lr_embedding(args.loraplus_lr_embedding));
}

std::vector<double> learning_rates(const torch::optim::AdamW& optimizer) {
  std::vector<double> rates;
  for (const auto& group : optimizer.param_groups()) {
    rates.push_back(group.options().get_lr());
  }
  return rates;
}

void scale_learning_rates(
    torch::optim::AdamW& optimizer,
    const std::vector<double>& peaks,
    double factor) {
  for (size_t i = 0; i < peaks.size(); ++i) {
    optimizer.param_groups()[i].options().set_lr(peaks[i] * factor);
  }
}

NamedTensors optimizer_state(
    torch::optim::AdamW& optimizer,
    const NamedTensors& parameters) {
  NamedTensors tensors;
  auto& states = optimizer.state();
  for (const auto& [name, parameter] : parameters) {
    const auto found = states.find(parameter.unsafeGetTensorImpl());
    if (found == states.end()) {
      continue;
    }
    auto& state = static_cast<torch::optim::AdamWParamState&>(*found->second);
    tensors.emplace_back(name + ".exp_avg", state.exp_avg());
    tensors.emplace_back(name + ".exp_avg_sq", state.exp_avg_sq());
    tensors.emplace_back(
        name + ".step", at::scalar_tensor(state.step(), at::kLong));
  }
  return tensors;
}

Tensor grad_norm(const NamedTensors& parameters) {
  const auto grads = gradients(parameters);
  if (grads.empty()) {
    return at::zeros({}, at::kDouble);
  }
  auto norms = at::_foreach_norm(grads, 2);
  for (auto& norm : norms) {
    norm = norm.to(norms[0].device());
  }
  return at::stack(norms).norm(2).to(sum_dtype(norms[0].device()));
}

void clip_gradients(
    const NamedTensors& parameters,
    const Tensor& norm,
    double max_norm) {
  torch::NoGradGuard no_grad;
  const auto scale = (max_norm / (norm + 1e-6)).clamp_max(1);
  if (scale.is_cpu() && scale.item<double>() == 1) {
    return;
  }
  for (auto& gradient : gradients(parameters)) {
    gradient.mul_(scale.to(gradient.device()));
  }
}

} // namespace torchlora::train
