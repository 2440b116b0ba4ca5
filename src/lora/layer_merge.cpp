#include <algorithm>

#include <torch/types.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/variant.h>

#include "lora/binding.h"
#include "nn/memory.h"

namespace torchlora {
namespace {

/// The matrix in a dtype in which sums are not rounded to half precision.
Tensor widened(const Tensor& matrix, bool copy = false) {
  return matrix.to(
      c10::promoteTypes(matrix.scalar_type(), at::kFloat),
      /*non_blocking=*/false,
      copy);
}

/// Returns the base layer's bias with `sign` times the adapter's in it;
/// undefined if the adapter has none. Made before the weight is written, so
/// that both are or none.
Tensor
changed_bias(const BaseWeight& base, const LoraAdapter& adapter, double sign) {
  const auto& bias = adapter.lora_B->bias;
  return bias.defined() ? base.bias().add(bias, sign * adapter.scaling)
                        : Tensor();
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
  return delta(adapters_.at(adapter_name, "get_delta_weight"));
}

/// Returns what the merge of an adapter saved, on the layer's device: it may
/// have been moved since.
Tensor LoraLayer::memory_of(const LoraAdapter& adapter) const {
  return adapter.memory.to(base_weight().weight().device());
}

Tensor LoraLayer::unmerged_matrix() const {
  auto matrix = base_weight().matrix();
  if (merged()) {
    matrix = widened(matrix, /*copy=*/true);
  }
  const auto& names = merged_adapters();
  for (auto name = names.rbegin(); name != names.rend(); ++name) {
    const auto& adapter = adapters_.at(*name, "unmerged_matrix");
    matrix = adapter.is_additive()
        ? matrix.sub_(delta(adapter))
        : adapter.variant->undo(matrix, delta(adapter), memory_of(adapter));
  }
  return matrix;
}

bool LoraLayer::has_bias_update(
    const std::vector<std::string>& adapter_names) const {
  return std::ranges::any_of(adapter_names, [&](const auto& name) {
    return adapters_.at(name, "merge").lora_B->bias.defined();
  });
}

/// ValueError if the base weight, or with `writes_bias` the bias, cannot be
/// changed in place.
void LoraLayer::check_writable(const char* function, bool writes_bias) const {
  binding_->check_in_place(function);
  const auto base = base_weight();
  const auto check = [&](const char* what, const Tensor& tensor) {
    const auto* reason = why_not_writable(tensor);
    TORCH_CHECK_VALUE(
        !*reason,
        "[",
        function,
        "] the ",
        what,
        " of a ",
        base_layer_->name(),
        " cannot be changed in place: it ",
        reason);
  };
  check("weight", base.weight());
  if (writes_bias && base.bias().defined()) {
    check("bias", base.bias());
  }
}

/// Throws ValueError if the adapters cannot be merged, before anything is
/// computed.
void LoraLayer::check_merge(
    const std::vector<std::string>& adapter_names) const {
  for (const auto& name : adapter_names) {
    TORCH_CHECK_VALUE(
        !has_bias_update({name}) || base_weight().bias().defined(),
        "[merge] impossible to merge the adapter ",
        name,
        " with lora_bias: the base layer has no bias");
  }
  check_writable("merge", has_bias_update(adapter_names));
}

void LoraLayer::check_mergeable(
    const std::vector<std::string>& adapter_names,
    bool safe_merge) const {
  torch::NoGradGuard no_grad;
  const auto names = not_merged(adapter_names);
  if (names.empty()) {
    return;
  }
  check_merge(names);
  auto weight = base_weight().matrix();
  if (safe_merge) {
    weight = weight.clone();
  }
  for (const auto& name : names) {
    const auto& adapter = adapters_.at(name, "merge");
    // Computed also without safe_merge: if that fails, no layer is merged yet.
    const auto update = delta(adapter);
    if (!adapter.is_additive()) {
      const auto applied = adapter.variant->apply(
          adapter, widened(weight), unmerged_matrix(), update);
      weight = applied.weight.to(weight.scalar_type());
    } else if (safe_merge) {
      weight = weight.add_(update);
    }
    const auto& bias = adapter.lora_B->bias;
    TORCH_CHECK_VALUE(
        !safe_merge ||
            (at::isfinite(weight).all().item<bool>() &&
             (!bias.defined() || at::isfinite(bias).all().item<bool>())),
        "[merge] NaNs detected in the merged weights. The adapter ",
        name,
        " seems to be broken");
  }
}

void LoraLayer::merge(const std::vector<std::string>& adapter_names) {
  torch::NoGradGuard no_grad;
  const auto names = not_merged(adapter_names);
  if (names.empty()) {
    return;
  }
  check_merge(names);
  const auto base = base_weight();
  for (const auto& name : names) {
    auto& adapter = adapters_.at(name, "merge");
    const auto bias = changed_bias(base, adapter, 1);
    if (adapter.is_additive()) { // in place: no copy of the weight
      base.add_(delta(adapter));
    } else {
      auto applied = adapter.variant->apply(
          adapter, widened(base.matrix()), unmerged_matrix(), delta(adapter));
      TORCH_INTERNAL_ASSERT(applied.memory.defined());
      base.copy_(applied.weight);
      adapter.memory = std::move(applied.memory);
    }
    if (bias.defined()) {
      base.bias().copy_(bias);
    }
    adapters_.push_merged(name);
  }
}

void LoraLayer::check_unmergeable() const {
  if (merged()) {
    torch::NoGradGuard no_grad;
    check_writable("unmerge", has_bias_update(merged_adapters()));
    // Computed as by check_mergeable: if that fails, no layer is unmerged yet.
    for (const auto& name : merged_adapters()) {
      const auto& adapter = adapters_.at(name, "unmerge");
      const auto update = delta(adapter);
      if (!adapter.is_additive()) {
        adapter.variant->undo(
            widened(base_weight().matrix()), update, memory_of(adapter));
      }
    }
  }
}

void LoraLayer::unmerge(size_t count) {
  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  for (; merged_adapters().size() > count; adapters_.pop_merged()) {
    auto& adapter = adapters_.at(merged_adapters().back(), "unmerge");
    const auto bias = changed_bias(base, adapter, -1);
    if (adapter.is_additive()) {
      base.add_(delta(adapter), -1);
    } else {
      base.copy_(adapter.variant->undo(
          widened(base.matrix()), delta(adapter), memory_of(adapter)));
      adapter.memory = Tensor();
    }
    if (bias.defined()) {
      base.bias().copy_(bias);
    }
  }
}

} // namespace torchlora
