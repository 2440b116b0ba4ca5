#pragma once

#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>
#include <torch/nn/module.h>
#include <torch/optim/lbfgs.h>
#include <torch/optim/optimizer.h>

#include <torchlora/export.h>

namespace torchlora {

/// The gradients of pairs of factors in the metric of their product:
///
///     g_A ← (Bᵀ B + reg I)⁻¹ g_A        g_B ← g_B (A Aᵀ + reg I)⁻¹
///
/// computed in fp32 at least. Zhang and Pilanci 2024, arXiv:2402.02347.
class TORCHLORA_API RiemannianPreconditioner {
 public:
  /// The trained pairs of a model's linear layers; as in PEFT those of
  /// embeddings and convolutions are left as they are, and so is a factor that
  /// is trained alone. ValueError if there is none, or if `reg` is negative.
  explicit RiemannianPreconditioner(
      const torch::nn::Module& model,
      double reg = 1e-2);
  /// Overwrites the gradients, in place.
  void precondition() const;
  /// What an optimizer takes, none twice.
  const std::vector<at::Tensor>& trainable_parameters() const {
    return parameters_;
  }

 private:
  std::vector<at::Tensor> parameters_;
  std::vector<std::pair<at::Tensor, at::Tensor>> pairs_;
  double reg_;
};

/// An optimizer of LibTorch that sees the gradients of LoRA factors as
/// `RiemannianPreconditioner` makes them. Saves and loads as `Optimizer` does.
/// Takes no closure: it would compute the gradients anew behind it.
template <class Optimizer>
class RiemannianOptimizer : public Optimizer {
 public:
  static_assert(
      !std::is_base_of_v<torch::optim::LBFGS, Optimizer>,
      "LBFGS evaluates the loss inside of a step");

  template <class OptimizerOptions>
  /// Over the preconditioner's parameters.
  RiemannianOptimizer(
      RiemannianPreconditioner preconditioner,
      const OptimizerOptions& optimizer_options)
      : Optimizer(preconditioner.trainable_parameters(), optimizer_options),
        preconditioner_(std::move(preconditioner)) {}

  /// ValueError with a closure.
  at::Tensor step(
      torch::optim::Optimizer::LossClosure closure = nullptr) override {
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

/// An optimizer over the trainable parameters of a model:
///
///     auto optimizer =
///         torchlora::create_riemannian_optimizer<torch::optim::AdamW>(
///             *model, torch::optim::AdamWOptions(1e-4));
///
/// PEFT's `create_riemannian_optimizer`.
template <class Optimizer, class OptimizerOptions>
std::unique_ptr<RiemannianOptimizer<Optimizer>> create_riemannian_optimizer(
    const torch::nn::Module& model,
    const OptimizerOptions& optimizer_options,
    double reg = 1e-2) {
  return std::make_unique<RiemannianOptimizer<Optimizer>>(
      RiemannianPreconditioner(model, reg), optimizer_options);
}

} // namespace torchlora
