#include "lora/overlay/weight_overlay.h"

#include <algorithm>

#include <torch/types.h>

#include <torchlora/lora/overlay.h>

#include "lora/overlay/kernels.h"

namespace torchlora {
namespace {

constexpr const char* kMarker = "unload_before_clone";

/// A child that makes `clone()` of the module throw, which would be a copy of
/// the base layer only.
struct CloneMarker : Module {
  CloneMarker() : Module("torchlora::Adapted") {}
  bool is_serializable() const override {
    return false;
  }
};

} // namespace

bool has_weight_overlay() {
  return overlay_is_registered();
}

WeightOverlay::WeightOverlay(Module& module, Tensor& member)
    : module_(module), member_(member), weight_(member) {}

bool WeightOverlay::is_installed_on(const Module& module) {
  return module.named_children().contains(kMarker);
}

void WeightOverlay::check_in_place(const char* function) const {
  TORCH_CHECK_VALUE(
      !layer_ || member_.is_same(shown_),
      "[",
      function,
      "] the weight member of the adapted ",
      module_.name(),
      " was assigned, so that its adapter acts on nothing; give it back the "
      "tensor that it had");
}

void WeightOverlay::bind(LoraLayer& layer) {
  TORCH_CHECK_VALUE(
      has_weight_overlay(),
      "[LoraLayer] a ",
      module_.name(),
      " can be adapted by the weight overlay only, which is not there "
      "(torchlora/lora/overlay.h)");
  if (!layer_) {
    layout_ = layer.base_weight().layout();
    weight_ = member_;
    module_.register_module(kMarker, std::make_shared<CloneMarker>());
  }
  layer_ = &layer;
  follow();
}

void WeightOverlay::unbind(LoraLayer& /*layer*/) {
  if (!layer_) {
    return;
  }
  layer_ = nullptr;
  module_.unregister_module(kMarker);
  if (member_.is_same(shown_)) { // the user may have given it another
    member_ = weight_;
  }
  shown_ = Tensor();
}

/// Takes the raw weight's dtype and device.
void WeightOverlay::follow() {
  if (!layer_ || (shown_.defined() && !member_.is_same(shown_))) {
    return;
  }
  // A graph also where the caller has none: a later backward finds it.
  const c10::InferenceMode no_inference(false);
  shown_ = make_overlay(shared_from_this());
  member_ = shown_;
}

Tensor WeightOverlay::forward(LoraLayer& layer, const Tensor& input) {
  TORCH_CHECK_VALUE(
      layer.base_forward_,
      "[LoraLayer] a ",
      module_.name(),
      " does not take one tensor: call the layer itself");
  return layer.base_forward_(module_, input);
}

Tensor WeightOverlay::base_forward(const LayerCall& call) {
  return call.operation->run(call.input, call.narrow(weight_), call.bias);
}

Tensor WeightOverlay::adapted_weight() const {
  return layer_ ? layer_->adapted_weight() : weight_;
}

const char* WeightOverlay::why_not_dense() const {
  return layer_ ? LoraLayer::why_not_dense(layer_->active_updates()) : "";
}

bool WeightOverlay::has_dropout() const {
  return layer_ &&
      std::ranges::any_of(layer_->active_updates(), [](const auto& update) {
           return update.dropout > 0;
         });
}

bool WeightOverlay::has_adapters() const {
  return layer_ && !layer_->is_base(layer_->active_updates());
}

Tensor WeightOverlay::run(const Tensor& input, const WeightOperation& operation)
    const {
  return layer_
      ? layer_->run(input, &operation)
      : operation.run(input, operation.narrow(weight_), operation.bias);
}

} // namespace torchlora
