#include <torch/types.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>

#include "lora/binding.h"

namespace torchlora {
namespace {

/// The matrix in a dtype in which sums are not rounded to half precision.
Tensor widened(const Tensor& matrix, bool copy = false) {
  return matrix.to(
      c10::promoteTypes(matrix.scalar_type(), at::kFloat),
      /*non_blocking=*/false,
      copy);
}

} // namespace

/// scaling · B A, shaped like `base_weight().matrix()`.
Tensor LoraLayer::delta(const LoraAdapter& adapter) const {
  const auto [A, B] = adapter.factors();
  // Half-precision products are slow on many CPUs.
  const bool upcast = A.is_cpu() && A.element_size() == 2;
  const auto dtype = upcast ? at::kFloat : A.scalar_type();
  // Scaled while it is small.
  return base_weight()
      .product(A.to(dtype), B.to(dtype) * adapter.scaling)
      .to(A.scalar_type());
}

Tensor LoraLayer::get_delta_weight(const std::string& adapter_name) const {
  return delta(adapters_.at(adapter_name));
}

Tensor LoraLayer::unmerged_matrix() const {
  auto matrix = base_weight().matrix();
  if (merged()) {
    matrix = widened(matrix, /*copy=*/true);
  }
  const auto& names = merged_adapters();
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const auto& adapter = adapters_.at(*name);
    matrix = adapter.is_additive()
        ? matrix.sub_(delta(adapter))
        : adapter.variant->undo(matrix, delta(adapter), adapter.memory);
  }
  return matrix;
}

void LoraLayer::check_mergeable(
    const std::vector<std::string>& adapter_names,
    bool safe_merge) const {
  torch::NoGradGuard no_grad;
  const auto names = not_merged(adapter_names);
  if (names.empty()) {
    return;
  }
  binding_->check_in_place();
  const auto base = base_weight();
  const auto unmerged = safe_merge ? unmerged_matrix() : Tensor();
  auto weight = safe_merge ? base.matrix().clone() : Tensor();
  for (const auto& name : names) {
    const auto& adapter = adapters_.at(name);
    const auto& bias = adapter.lora_B->bias;
    TORCH_CHECK_VALUE(
        !bias.defined() || base.bias().defined(),
        "[merge] impossible to merge the adapter ",
        name,
        " with lora_bias: the base layer has no bias");
    if (!safe_merge) {
      continue;
    }
    weight = adapter.is_additive()
        ? weight.add_(delta(adapter))
        : adapter.variant->apply(adapter, weight, unmerged, delta(adapter))
              .weight.to(weight.scalar_type());
    const bool finite = at::isfinite(weight).all().item<bool>() &&
        (!bias.defined() || at::isfinite(bias).all().item<bool>());
    TORCH_CHECK_VALUE(
        finite,
        "[merge] NaNs detected in the merged weights. The adapter ",
        name,
        " seems to be broken");
  }
}

void LoraLayer::merge(const std::vector<std::string>& adapter_names) {
  check_mergeable(adapter_names, /*safe_merge=*/false);
  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  for (const auto& name : not_merged(adapter_names)) {
    auto& adapter = adapters_.at(name);
    if (adapter.is_additive()) { // in place: no copy of the weight
      base.add_(delta(adapter));
    } else {
      auto applied = adapter.variant->apply(
          adapter, widened(base.matrix()), unmerged_matrix(), delta(adapter));
      TORCH_INTERNAL_ASSERT(applied.memory.defined());
      base.copy_(applied.weight);
      adapter.memory = std::move(applied.memory);
    }
    if (const auto& bias = adapter.lora_B->bias; bias.defined()) {
      base.bias().add_(bias, adapter.scaling);
    }
    adapters_.push_merged(name);
  }
}

void LoraLayer::unmerge() {
  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  for (; merged(); adapters_.pop_merged()) {
    auto& adapter = adapters_.at(merged_adapters().back());
    if (adapter.is_additive()) {
      base.add_(delta(adapter), -1);
    } else {
      base.copy_(adapter.variant->undo(
          widened(base.matrix()),
          delta(adapter),
          std::exchange(adapter.memory, Tensor())));
    }
    if (const auto& bias = adapter.lora_B->bias; bias.defined()) {
      base.bias().add_(bias, -adapter.scaling);
    }
  }
}

} // namespace torchlora
