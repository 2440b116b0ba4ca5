#include <torchlora/optim/lorafa.h>

#include <algorithm>
#include <cmath>

#include <torch/optim/adamw.h>
#include <torch/optim/serialize.h>
#include <torch/serialize/archive.h>
#include <torch/types.h>

#include <torchlora/lora/layer.h>
#include <torchlora/nn/inspect.h>

#include "optim/damped_inverse.h"

namespace torchlora {
namespace {

using torch::optim::AdamWParamState;

constexpr double kDamping = 1e-8;

std::vector<at::Tensor> parameters_of(
    const std::vector<LoraFAPair>& pairs,
    const std::vector<at::Tensor>& others) {
  std::vector<at::Tensor> parameters;
  for (const auto& pair : pairs) {
    parameters.push_back(pair.B);
  }
  parameters.insert(parameters.end(), others.begin(), others.end());
  return parameters;
}

void check(bool holds, const char* option, const char* required, double found) {
  TORCH_CHECK_VALUE(
      holds, "[LoraFA] ", option, " must be ", required, ", found ", found);
}

AdamWParamState& state_of(
    ska::flat_hash_map<
        void*,
        std::unique_ptr<torch::optim::OptimizerParamState>>& states,
    const at::Tensor& parameter) {
  auto& state = states[parameter.unsafeGetTensorImpl()];
  if (!state) {
    auto fresh = std::make_unique<AdamWParamState>();
    fresh->step(0);
    fresh->exp_avg(at::zeros_like(parameter, at::MemoryFormat::Preserve));
    fresh->exp_avg_sq(at::zeros_like(parameter, at::MemoryFormat::Preserve));
    state = std::move(fresh);
  }
  return static_cast<AdamWParamState&>(*state);
}

void adamw_step(
    at::Tensor parameter,
    const at::Tensor& grad,
    AdamWParamState& state,
    const LoraFAOptions& options) {
  const auto [beta1, beta2] = options.betas();
  state.step(state.step() + 1);
  state.exp_avg().mul_(beta1).add_(grad, 1 - beta1);
  state.exp_avg_sq().mul_(beta2).addcmul_(grad, grad, 1 - beta2);
  double step_size = options.lr();
  if (options.correct_bias()) {
    const auto step = static_cast<double>(state.step());
    step_size *=
        std::sqrt(1 - std::pow(beta2, step)) / (1 - std::pow(beta1, step));
  }
  parameter.addcdiv_(
      state.exp_avg(),
      state.exp_avg_sq().sqrt().add_(options.eps()),
      -step_size);
  if (options.weight_decay() > 0) {
    // NOTE: not mul_, which rounds its factor to bf16.
    parameter.add_(parameter, -options.lr() * options.weight_decay());
  }
}

/// The pairs of a layer's adapters that are being trained.
void collect_pairs(
    const LoraLayer& layer,
    const std::string& name,
    std::vector<LoraFAPair>& pairs) {
  for (const auto& adapter : layer.adapters()) {
    const auto& A = adapter.lora_A->weight;
    const auto& B = adapter.lora_B->weight;
    if (!A.requires_grad() && !B.requires_grad()) {
      continue;
    }
    TORCH_CHECK_VALUE(
        B.requires_grad() && at::any(A != 0).item<bool>(),
        "[create_lorafa_optimizer] adapter ",
        adapter.name,
        " of module \"",
        name,
        "\" cannot be trained by B alone: ",
        B.requires_grad() ? "its A is zero" : "its B is frozen",
        "; leave the module out by exclude_modules or choose another "
        "init_lora_weights");
    pairs.push_back({A, B, adapter.scaling});
  }
}

} // namespace

void LoraFAOptions::serialize(torch::serialize::OutputArchive& archive) const {
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(lr);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(betas);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(eps);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(weight_decay);
  _TORCH_OPTIM_SERIALIZE_TORCH_ARG(correct_bias);
}

void LoraFAOptions::serialize(torch::serialize::InputArchive& archive) {
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, lr);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(betas_t, betas);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, eps);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(double, weight_decay);
  _TORCH_OPTIM_DESERIALIZE_TORCH_ARG(bool, correct_bias);
}

LoraFA::LoraFA(
    const std::vector<LoraFAPair>& pairs,
    const std::vector<at::Tensor>& others,
    LoraFAOptions options)
    : Optimizer(
          parameters_of(pairs, others),
          std::make_unique<LoraFAOptions>(options)) {
  const auto [beta1, beta2] = options.betas();
  check(options.lr() >= 0, "lr", "not negative", options.lr());
  check(beta1 >= 0 && beta1 < 1, "betas[0]", "in [0, 1)", beta1);
  check(beta2 >= 0 && beta2 < 1, "betas[1]", "in [0, 1)", beta2);
  check(options.eps() >= 0, "eps", "not negative", options.eps());
  check(
      options.weight_decay() >= 0,
      "weight_decay",
      "not negative",
      options.weight_decay());
  for (const auto& pair : pairs) {
    check(
        std::isfinite(pair.scaling) && pair.scaling != 0,
        "the scaling of an adapter",
        "finite and not zero",
        pair.scaling);
    pairs_.emplace(pair.B.unsafeGetTensorImpl(), pair);
  }
}

at::Tensor LoraFA::project(const at::Tensor& parameter, const at::Tensor& grad)
    const {
  const auto found = pairs_.find(parameter.unsafeGetTensorImpl());
  if (found == pairs_.end()) {
    return grad;
  }
  const auto& pair = found->second;
  const auto inverse = damped_inverse(pair.A.flatten(1), kDamping);
  return at::mm(grad.flatten(1).to(inverse.scalar_type()), inverse)
      .div_(pair.scaling * pair.scaling)
      .to(grad.scalar_type())
      .view_as(grad);
}

at::Tensor LoraFA::step(LossClosure closure) {
  torch::NoGradGuard no_grad;
  at::Tensor loss;
  if (closure) {
    at::AutoGradMode with_grad(true);
    loss = closure();
  }
  for (const auto& group : param_groups_) {
    const auto& options = static_cast<const LoraFAOptions&>(group.options());
    for (const auto& parameter : group.params()) {
      if (const auto& grad = parameter.grad(); grad.defined()) {
        adamw_step(
            parameter,
            project(parameter, grad),
            state_of(state_, parameter),
            options);
      }
    }
  }
  return loss;
}

void LoraFA::save(torch::serialize::OutputArchive& archive) const {
  torch::optim::serialize<AdamWParamState, LoraFAOptions>(archive, *this);
}

void LoraFA::load(torch::serialize::InputArchive& archive) {
  torch::optim::serialize<AdamWParamState, LoraFAOptions>(archive, *this);
}

std::unique_ptr<LoraFA> create_lorafa_optimizer(
    torch::nn::Module& model,
    const LoraFAOptions& options) {
  std::vector<LoraFAPair> pairs;
  for (const auto& item : model.named_modules()) {
    if (const auto* layer = dynamic_cast<LoraLayer*>(item.value().get())) {
      collect_pairs(*layer, item.key(), pairs);
    }
  }
  TORCH_CHECK_VALUE(
      !pairs.empty(),
      "[create_lorafa_optimizer] no adapter of the model is trainable; make "
      "one active by set_adapter");
  for (const auto& pair : pairs) {
    pair.A.set_requires_grad(false);
  }
  auto others = nn::trainable_parameters(model);
  std::erase_if(others, [&](const at::Tensor& parameter) {
    return std::ranges::any_of(pairs, [&](const LoraFAPair& pair) {
      return pair.B.is_same(parameter);
    });
  });
  return std::make_unique<LoraFA>(pairs, others, options);
}

} // namespace torchlora
