#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/types.h>

#include <torchlora/lora/layer.h>

#include "config/names.h"
#include "lora/overlay/weight_overlay.h"

namespace torchlora {
namespace {

/// A copy in which sums are not rounded to half precision.
at::Tensor wide_copy(const at::Tensor& matrix) {
  return matrix.to(
      c10::promoteTypes(matrix.scalar_type(), at::kFloat),
      /*non_blocking=*/false,
      /*copy=*/true);
}

/// Takes a merged update out of a matrix, in place; `scale` may be undefined.
void undo_update(
    at::Tensor& matrix,
    const at::Tensor& scale,
    const at::Tensor& delta) {
  if (scale.defined()) {
    matrix.div_(scale.unsqueeze(1));
  }
  matrix.sub_(delta);
}

} // namespace

std::vector<std::string> LoraLayer::not_merged(
    const std::vector<std::string>& adapter_names) const {
  return each_once(
      adapter_names.empty() ? active_adapters_ : adapter_names,
      [&](const auto& name) {
        return find_adapter(name) && !contains(merged_adapters_, name);
      });
}

void LoraLayer::check_mergeable(
    const std::vector<std::string>& adapter_names,
    bool safe_merge) const {
  if (overlay_ && !adapter_names.empty()) {
    overlay_->check_in_place(base_layer_->name());
  }
  const auto base = base_weight();
  const auto unmerged = safe_merge ? unmerged_matrix() : at::Tensor();
  auto weight = safe_merge ? base.matrix().clone() : at::Tensor();
  for (const auto& name : adapter_names) {
    const auto& adapter = at(name);
    const auto& bias = adapter.lora_B->bias;
    TORCH_CHECK_VALUE(
        !bias.defined() || base.bias().defined(),
        "[merge] impossible to merge the adapter ",
        name,
        " with lora_bias: the base layer has no bias");
    if (!safe_merge) {
      continue;
    }
    weight.add_(delta_weight(name));
    if (adapter.lora_magnitude_vector) {
      weight.mul_(scale(adapter, unmerged).unsqueeze(1));
    }
    const bool finite = at::isfinite(weight).all().item<bool>() &&
        (!bias.defined() || at::isfinite(bias).all().item<bool>());
    TORCH_CHECK_VALUE(
        finite,
        "[merge] NaNs detected in the merged weights. The adapter ",
        name,
        " seems to be broken");
  }
}

void LoraLayer::merge_adapter(const LoraAdapter& adapter) {
  const auto base = base_weight();
  at::Tensor factor;
  if (adapter.lora_magnitude_vector) {
    factor = scale(adapter, unmerged_matrix());
    base.copy_(wide_copy(base.matrix())
                   .add_(delta_weight(adapter.name))
                   .mul_(factor.unsqueeze(1)));
  } else {
    base.add_(delta_weight(adapter.name));
  }
  if (adapter.lora_B->bias.defined()) {
    base.bias().add_(adapter.lora_B->bias, adapter.scaling);
  }
  merged_adapters_.push_back(adapter.name);
  merged_scales_.push_back(factor);
}

at::Tensor LoraLayer::unmerged_matrix() const {
  const auto matrix = base_weight().matrix();
  if (!merged()) {
    return matrix;
  }
  auto result = wide_copy(matrix);
  for (size_t i = merged_adapters_.size(); i-- > 0;) {
    undo_update(result, merged_scales_[i], delta_weight(merged_adapters_[i]));
  }
  return result;
}

void LoraLayer::merge(
    bool safe_merge,
    const std::vector<std::string>& adapter_names) {
  merge_layers({this}, safe_merge, adapter_names);
}

void LoraLayer::unmerge() {
  if (!merged()) {
    TORCH_WARN("Already unmerged. Nothing to do.");
    return;
  }
  torch::NoGradGuard no_grad;
  const auto base = base_weight();
  for (; merged(); merged_adapters_.pop_back(), merged_scales_.pop_back()) {
    const auto& adapter = at(merged_adapters_.back());
    const auto& factor = merged_scales_.back();
    if (factor.defined()) {
      auto matrix = wide_copy(base.matrix());
      undo_update(matrix, factor, delta_weight(adapter.name));
      base.copy_(matrix);
    } else { // in place: no copy of the weight
      base.add_(delta_weight(adapter.name), -1);
    }
    if (adapter.lora_B->bias.defined()) {
      base.bias().add_(adapter.lora_B->bias, -adapter.scaling);
    }
  }
  refresh_weight();
}

void merge_layers(
    const std::vector<LoraLayer*>& layers,
    bool safe_merge,
    const std::vector<std::string>& adapter_names) {
  torch::NoGradGuard no_grad;
  const LoraLayer* merged = nullptr;
  std::vector<std::string> additional;
  for (const auto* layer : layers) {
    if (layer->merged()) {
      merged = layer;
      for (auto& name : layer->not_merged(adapter_names)) {
        if (!contains(additional, name)) {
          additional.push_back(std::move(name));
        }
      }
    }
    layer->check_mergeable(layer->not_merged(adapter_names), safe_merge);
  }
  if (merged && additional.empty()) {
    TORCH_WARN("All adapters are already merged, nothing to do.");
  } else if (merged) {
    TORCH_WARN(fmt::format(
        "Already following adapters were merged {}. You are now additionally "
        "merging {}.",
        fmt::join(merged->merged_adapters(), ","),
        fmt::join(additional, ",")));
  }
  for (auto* layer : layers) {
    for (const auto& name : layer->not_merged(adapter_names)) {
      layer->merge_adapter(layer->at(name));
    }
    layer->refresh_weight();
  }
}

} // namespace torchlora
