#include <torchlora/optim/riemannian.h>

#include <cmath>

#include <torch/types.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/layers/embedding.h>
#include <torchlora/nn/inspect.h>

#include "optim/damped_inverse.h"

namespace torchlora {

RiemannianPreconditioner::RiemannianPreconditioner(
    const torch::nn::Module& model,
    double reg)
    : reg_(reg) {
  TORCH_CHECK_VALUE(
      std::isfinite(reg) && reg >= 0,
      "[create_riemannian_optimizer] reg must not be negative, found ",
      reg);
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto* layer = dynamic_cast<const LoraLayer*>(module.get());
    if (!layer || dynamic_cast<const LoraEmbedding*>(layer)) {
      continue;
    }
    for (const auto& adapter : layer->adapters()) {
      const auto& A = adapter.lora_A->weight;
      const auto& B = adapter.lora_B->weight;
      if (A.dim() == 2 && A.requires_grad() && B.requires_grad()) {
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

void RiemannianPreconditioner::precondition() const {
  torch::NoGradGuard no_grad;
  for (const auto& [A, B] : pairs_) {
    if (auto grad = A.grad(); grad.defined()) {
      const auto inverse = damped_inverse(B.t(), reg_);
      grad.copy_(at::mm(inverse, grad.to(inverse.scalar_type())));
    }
    if (auto grad = B.grad(); grad.defined()) {
      const auto inverse = damped_inverse(A, reg_);
      grad.copy_(at::mm(grad.to(inverse.scalar_type()), inverse));
    }
  }
}

} // namespace torchlora
