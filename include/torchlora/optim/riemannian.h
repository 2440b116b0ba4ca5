#pragma once

#include <cmath>
#include <type_traits>

#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>
#include <torch/types.h>

#include <torchlora/detail/damped_inverse.h>
#include <torchlora/lora/layer.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/nn/inspect.h>

namespace torchlora {

/// A preconditioner that replaces the gradients of the LoRA factors A and B by
/// the gradients in the metric of their product:
///
///     g_A ← (Bᵀ B + reg I)⁻¹ g_A        g_B ← g_B (A Aᵀ + reg I)⁻¹
///
/// in at least fp32. Zhang and Pilanci 2024, arXiv:2402.02347.
class RiemannianPreconditioner {
 public:
  /// Collects the factors A and B of every adapter of a linear layer of `model`
  /// whose A and B are both trainable. Leaves embeddings and convolutions out,
  /// as PEFT does. `reg` damps the inverses. ValueError if there is no such
  /// pair, or if `reg` is negative or not finite.
  explicit RiemannianPreconditioner(const Module& model, double reg = 1e-2)
      : reg_(reg) {
    TORCH_CHECK_VALUE(
        std::isfinite(reg) && reg >= 0,
        "[create_riemannian_optimizer] reg must not be negative, found ",
        reg);
    for (const auto& module : model.modules(/*include_self=*/false)) {
      const auto* layer = dynamic_cast<const LoraLayer*>(module.get());
      if (!layer || dynamic_cast<const LoraTable*>(layer)) {
        continue;
      }
      for (const auto& adapter : layer->adapters()) {
        const auto& A = adapter.lora_A->weight;
        const auto& B = adapter.lora_B->weight;
        if (A.dim() == 2 && A.requires_grad() && B.requires_grad()) {
          detail::check_plain_factors(adapter, "create_riemannian_optimizer");
          pairs_.emplace_back(A, B);
        }
      }
    }
    TORCH_CHECK_VALUE(
        !pairs_.empty(),
        "[create_riemannian_optimizer] the model has no linear layer with an "
        "adapter whose A and B are trained; make one active by set_adapter");
    parameters_ = nn::trainable_parameters(model);
  }

  /// Preconditions the gradients of all pairs of factors (A, B) in place. Skips
  /// a factor without a gradient.
  void precondition() const {
    torch::NoGradGuard no_grad;
    for (const auto& [A, B] : pairs_) {
      if (auto grad = A.grad(); grad.defined()) {
        const auto inverse = detail::damped_inverse(B.t(), reg_);
        grad.copy_(at::mm(inverse, grad.to(inverse.scalar_type())));
      }
      if (auto grad = B.grad(); grad.defined()) {
        const auto inverse = detail::damped_inverse(A, reg_);
        grad.copy_(at::mm(grad.to(inverse.scalar_type()), inverse));
      }
    }
  }

  /// Returns all trainable parameters of the model, each once, for an
  /// optimizer.
  const std::vector<Tensor>& trainable_parameters() const {
    return parameters_;
  }

 private:
  std::vector<Tensor> parameters_;
  std::vector<std::pair<Tensor, Tensor>> pairs_;
  double reg_;
};

/// An optimizer of LibTorch's type `Optimizer` that preconditions the gradients
/// of the LoRA factors before each step. Saves and loads its state as
/// `Optimizer` does. It accepts no closure: a closure would overwrite the
/// preconditioned gradients.
template <class Optimizer>
class RiemannianOptimizer : public Optimizer {
 public:
  static_assert(
      !std::is_base_of_v<torch::optim::LBFGS, Optimizer>,
      "LBFGS evaluates the loss inside of a step");

  /// Makes an `Optimizer` for all trainable parameters of the model that
  /// `preconditioner` was made for.
  template <class OptimizerOptions>
  RiemannianOptimizer(
      RiemannianPreconditioner preconditioner,
      const OptimizerOptions& optimizer_options)
      : Optimizer(preconditioner.trainable_parameters(), optimizer_options),
        preconditioner_(std::move(preconditioner)) {}

  /// Preconditions the gradients of the LoRA factors, then runs
  /// `Optimizer::step`. ValueError if there is a `closure`, which would
  /// overwrite these gradients.
  Tensor step(torch::optim::Optimizer::LossClosure closure = nullptr) override {
    TORCH_CHECK_VALUE(
        !closure,
        "[RiemannianOptimizer] a closure is not supported: it would overwrite "
        "the preconditioned gradients; call backward before step");
    preconditioner_.precondition();
    return Optimizer::step();
  }

 private:
  RiemannianPreconditioner preconditioner_;
};

/// Creates an optimizer for the trainable parameters of `model` that
/// preconditions the gradients of the LoRA factors before each step. `reg`
/// damps the inverses (`RiemannianPreconditioner`).
///
///     auto optimizer =
///         torchlora::create_riemannian_optimizer<torch::optim::AdamW>(
///             *model, torch::optim::AdamWOptions(1e-4));
///
/// PEFT's `create_riemannian_optimizer`.
template <class Optimizer, class OptimizerOptions>
std::unique_ptr<RiemannianOptimizer<Optimizer>> create_riemannian_optimizer(
    const Module& model,
    const OptimizerOptions& optimizer_options,
    double reg = 1e-2) {
  return std::make_unique<RiemannianOptimizer<Optimizer>>(
      RiemannianPreconditioner(model, reg), optimizer_options);
}

} // namespace torchlora
