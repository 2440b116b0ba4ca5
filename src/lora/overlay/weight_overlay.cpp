#include "lora/overlay/weight_overlay.h"

#include <algorithm>
#include <atomic>

#include <torch/types.h>

#include <torchlora/lora/overlay.h>

#include "lora/overlay/kernels.h"

namespace torchlora {
namespace {

std::atomic<bool> overlay_is_wanted{true};
std::atomic<int64_t> dense_weights{0};

constexpr const char* kMarker = "unload_before_clone";

/// A child that makes `clone()` of the module throw, which would be a copy of
/// the base layer only.
struct CloneMarker : torch::nn::Module {
  CloneMarker() : torch::nn::Module("torchlora::Adapted") {}
  bool is_serializable() const override {
    return false;
  }
};

} // namespace

bool has_weight_overlay() {
  return overlay_is_registered();
}

void set_weight_overlay(bool enabled) {
  overlay_is_wanted = enabled;
}

WeightOverlay::WeightOverlay(torch::nn::Module& module, at::Tensor& member)
    : module_(module),
      member_(member),
      weight_(member),
      is_dense_(!overlay_is_wanted || !has_weight_overlay()) {}

bool WeightOverlay::any_is_dense() {
  return dense_weights > 0;
}

bool WeightOverlay::is_installed_on(const torch::nn::Module& module) {
  return module.named_children().contains(kMarker);
}

void WeightOverlay::check_in_place(const std::string& module_name) const {
  TORCH_CHECK_VALUE(
      !layer_ || member_.is_same(shown_),
      "[merge] the weight member of the adapted ",
      module_name,
      " was assigned, so that its adapter acts on nothing; give it back the "
      "tensor that it had");
}

void WeightOverlay::install(LoraLayer& layer) {
  if (!layer_) {
    layout_ = layer.base_weight().layout();
    weight_ = member_;
    dense_weights += is_dense_;
    module_.register_module(kMarker, std::make_shared<CloneMarker>());
  }
  layer_ = &layer;
  refresh();
}

void WeightOverlay::remove() {
  if (!layer_) {
    return;
  }
  layer_ = nullptr;
  dense_weights -= is_dense_;
  module_.unregister_module(kMarker);
  if (member_.is_same(shown_)) { // the user may have given it another
    member_ = weight_;
  }
  shown_ = at::Tensor();
}

void WeightOverlay::refresh() {
  if (!layer_ || (shown_.defined() && !member_.is_same(shown_))) {
    return;
  }
  // A graph also where the caller has none: a later backward finds it.
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  if (!is_dense_) {
    shown_ = make_overlay(shared_from_this());
  } else {
    shown_ = layer_->adapted_weight();
    if (layer_->merged() && layer_->base_forward_writes()) {
      shown_ = shown_.clone();
    }
    require_refresh_after_step();
  }
  member_ = shown_;
}

void WeightOverlay::require_refresh_after_step() const {
  if (!shown_.requires_grad() || shown_.is_leaf()) {
    return;
  }
  std::vector<std::pair<at::Tensor, at::Tensor>> factors;
  for (const auto& parameter : layer_->parameters()) {
    if (parameter.requires_grad()) {
      factors.emplace_back(parameter, parameter.detach().clone());
    }
  }
  // NOTE: a version tells nothing, as LibTorch's SGD writes past it.
  const auto is_used = std::make_shared<bool>(false);
  const auto check = [factors, is_used, name = module_.name()](
                         const at::Tensor& /*gradient*/) {
    for (const auto& [parameter, value] : factors) {
      TORCH_CHECK_VALUE(
          !*is_used || at::equal(parameter, value),
          "[backward] the dense weight of an adapted ",
          name,
          " is of before the optimizer's step: without the weight overlay call "
          "PeftModel::refresh_weights() before each forward "
          "(torchlora/lora/overlay.h)");
    }
    *is_used = true;
  };
  shown_.register_hook(check);
}

at::Tensor WeightOverlay::adapted_weight() const {
  return layer_ ? layer_->adapted_weight() : weight_;
}

const char* WeightOverlay::why_not_dense() const {
  return layer_ ? layer_->why_not_dense() : "";
}

bool WeightOverlay::has_dropout() const {
  return layer_ && std::ranges::any_of(layer_->terms(), [](const auto& term) {
           return term.dropout > 0;
         });
}

bool WeightOverlay::has_adapters() const {
  return layer_ && !layer_->is_base(layer_->terms());
}

at::Tensor WeightOverlay::run(
    const at::Tensor& input,
    const WeightOperation& operation) const {
  return layer_
      ? layer_->run(input, operation)
      : operation.run(input, operation.narrow(weight_), operation.bias);
}

} // namespace torchlora
