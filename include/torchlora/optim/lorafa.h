#pragma once

#include <algorithm>
#include <cmath>
#include <tuple>
#include <unordered_map>

#include <torch/optim/adamw.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <torchlora/detail/arg.h>
#include <torchlora/detail/damped_inverse.h>
#include <torchlora/lora/layer.h>
#include <torchlora/nn/inspect.h>

namespace torchlora {

/// Options of the optimizer `LoraFA`. Names and defaults are those of PEFT's
/// `LoraFAOptimizer`.
struct TORCHLORA_API LoraFAOptions
    : public torch::optim::OptimizerCloneableOptions<LoraFAOptions> {
  /// Sets the learning rate. Each other option has PEFT's default.
  LoraFAOptions(double lr = 1e-3) : lr_(lr) {}
  ~LoraFAOptions() override;
  /// The decay rates of AdamW's first and second moment.
  using betas_t = std::tuple<double, double>;

  /// @{
  /// Write and read these options, or get and set the learning rate. LibTorch's
  /// optimizers and schedulers call these functions.
  void serialize(torch::serialize::InputArchive& archive) override;
  void serialize(torch::serialize::OutputArchive& archive) const override;
  double get_lr() const override {
    return lr_;
  }
  void set_lr(double lr) override {
    lr_ = lr;
  }
  /// @}

  TORCHLORA_ARG(double, lr) = 1e-3;
  TORCHLORA_ARG(betas_t, betas) = std::make_tuple(0.9, 0.999);
  /// AdamW adds this constant to the root of the second moment.
  TORCHLORA_ARG(double, eps) = 1e-6;
  /// The decoupled weight decay: after each step a parameter p shrinks by lr ·
  /// weight_decay · p.
  TORCHLORA_ARG(double, weight_decay) = 0;
  /// Whether to correct the bias of AdamW's moments toward zero, where they
  /// start.
  TORCHLORA_ARG(bool, correct_bias) = true;
};

/// The factors A and B of one adapter, and the scaling s of its update s·B·A.
struct LoraFAPair {
  Tensor A, B;
  double scaling;
};

/// The optimizer LoRA-FA. It trains B and leaves A as it is. B steps as if the
/// weight itself stepped, as far as A permits:
///
///     g_B ← g_B (A Aᵀ + 1e-8 I)⁻¹ / scaling²
///
/// followed by AdamW on that gradient. Every other parameter takes AdamW's
/// step. The projection runs in at least fp32; the moments have the parameters'
/// dtype. Saves and loads its state as LibTorch's optimizers do. PEFT's
/// `LoraFAOptimizer`; Zhang et al. 2023, arXiv:2308.03303.
class TORCHLORA_API LoraFA : public torch::optim::Optimizer {
 public:
  /// Optimizes B of each pair by LoRA-FA and the tensors `others` by AdamW.
  /// Flattens the factors of convolutions to matrices. ValueError for an
  /// invalid option, or if a scaling is zero or not finite.
  LoraFA(
      const std::vector<LoraFAPair>& pairs,
      const std::vector<Tensor>& others,
      LoraFAOptions options = {})
      : Optimizer(
            parameters_of(pairs, others),
            std::make_unique<LoraFAOptions>(options)) {
    const auto check = [](bool holds,
                          const char* option,
                          const char* required,
                          double found) {
      TORCH_CHECK_VALUE(
          holds, "[LoraFA] ", option, " must be ", required, ", found ", found);
    };
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
  ~LoraFA() override;

  /// Calls `closure` if there is one, then updates every parameter that has a
  /// gradient. Returns the loss of the closure.
  Tensor step(LossClosure closure = nullptr) override {
    torch::NoGradGuard no_grad;
    Tensor loss;
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
              state_of(parameter),
              options);
        }
      }
    }
    return loss;
  }

  /// @{
  /// Writes the optimizer's state to `archive`, or reads it from there, as
  /// LibTorch's optimizers do.
  void save(torch::serialize::OutputArchive& archive) const override;
  void load(torch::serialize::InputArchive& archive) override;
  /// @}

 private:
  static std::vector<Tensor> parameters_of(
      const std::vector<LoraFAPair>& pairs,
      const std::vector<Tensor>& others) {
    std::vector<Tensor> parameters;
    for (const auto& pair : pairs) {
      parameters.push_back(pair.B);
    }
    parameters.insert(parameters.end(), others.begin(), others.end());
    return parameters;
  }

  Tensor project(const Tensor& parameter, const Tensor& grad) const {
    const auto found = pairs_.find(parameter.unsafeGetTensorImpl());
    if (found == pairs_.end()) {
      return grad;
    }
    const auto& pair = found->second;
    const auto inverse =
        detail::damped_inverse(pair.A.flatten(1), /*damping=*/1e-8);
    return at::mm(grad.flatten(1).to(inverse.scalar_type()), inverse)
        .div_(pair.scaling * pair.scaling)
        .to(grad.scalar_type())
        .view_as(grad);
  }

  torch::optim::AdamWParamState& state_of(const Tensor& parameter) {
    auto& state = state_[parameter.unsafeGetTensorImpl()];
    if (!state) {
      auto fresh = std::make_unique<torch::optim::AdamWParamState>();
      fresh->step(0);
      fresh->exp_avg(at::zeros_like(parameter, at::MemoryFormat::Preserve));
      fresh->exp_avg_sq(at::zeros_like(parameter, at::MemoryFormat::Preserve));
      state = std::move(fresh);
    }
    return static_cast<torch::optim::AdamWParamState&>(*state);
  }

  static void adamw_step(
      Tensor parameter,
      const Tensor& grad,
      torch::optim::AdamWParamState& state,
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

  /// The pairs; the key is B.
  std::unordered_map<const at::TensorImpl*, LoraFAPair> pairs_;
};

namespace detail {

/// Not public. Adds the factors of each adapter of `layer` that is trainable (A
/// or B requires a gradient) to `pairs`. ValueError if B is frozen or A is
/// zero.
inline void collect_lorafa_pairs(
    const LoraLayer& layer,
    const std::string& name,
    std::vector<LoraFAPair>& pairs) {
  for (const auto& adapter : layer.adapters()) {
    const auto& A = adapter.lora_A->weight;
    const auto& B = adapter.lora_B->weight;
    if (!A.requires_grad() && !B.requires_grad()) {
      continue;
    }
    check_plain_factors(adapter, "create_lorafa_optimizer");
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

} // namespace detail

/// Freezes A of every trainable adapter of `model` and returns a `LoraFA` for
/// all parameters that are still trainable. Each layer then saves only A x for
/// the backward pass, not its input x. ValueError if no adapter is trainable,
/// or if an adapter has an A of zeros (a fresh adapter of an embedding, MiCA):
/// its B would never learn. PEFT's `create_lorafa_optimizer` without `r` and
/// `lora_alpha`: each layer knows its scaling.
inline std::unique_ptr<LoraFA> create_lorafa_optimizer(
    Module& model,
    const LoraFAOptions& options = {}) {
  std::vector<LoraFAPair> pairs;
  for (const auto& item : model.named_modules()) {
    if (const auto* layer = dynamic_cast<LoraLayer*>(item.value().get())) {
      detail::collect_lorafa_pairs(*layer, item.key(), pairs);
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
  std::erase_if(others, [&](const Tensor& parameter) {
    return std::ranges::any_of(pairs, [&](const LoraFAPair& pair) {
      return pair.B.is_same(parameter);
    });
  });
  return std::make_unique<LoraFA>(pairs, others, options);
}

} // namespace torchlora
