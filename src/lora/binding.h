#pragma once

#include <functional>
#include <memory>
#include <utility>

#include <torch/nn/module.h>

#include <torchlora/lora/layer.h>
#include <torchlora/nn/redirect.h>

#include "lora/overlay/weight_overlay.h"

namespace torchlora {

/// How a LoRA layer gets between a module and its weight.
///
/// `RedirectBinding`: the module is `nn::Redirectable` and sends its forward
/// to the LoRA layer, which computes the whole of it. `OverlayBinding`: the
/// module knows nothing; its weight member becomes a stand-in that calls the
/// LoRA layer where one of LibTorch's operations meets it.
class LayerBinding {
 public:
  virtual ~LayerBinding() = default;

  virtual void bind(LoraLayer& layer) = 0;
  virtual void unbind(LoraLayer& layer) = 0;
  /// Follows the base layer after it was moved.
  virtual void follow() {}

  /// Returns the raw weight for that which the accessor found.
  virtual BaseWeight raw(BaseWeight base) const {
    return base;
  }
  virtual bool is_unmodified() const = 0;
  /// ValueError if the adapter acts on nothing any more.
  virtual void check_in_place() const {}

  /// What `LoraLayer::forward` returns.
  virtual at::Tensor forward(LoraLayer& layer, const at::Tensor& input) = 0;
  /// Returns the base layer's own output.
  virtual at::Tensor base_forward(
      const at::Tensor& input,
      const WeightOperation* operation) = 0;
  virtual void set_base_forward(
      std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>
      /*base_forward*/) {}
};

class RedirectBinding : public LayerBinding {
 public:
  explicit RedirectBinding(nn::Redirectable& redirectable)
      : redirectable_(redirectable) {}

  void bind(LoraLayer& layer) override {
    redirectable_.redirect_to(&layer);
  }
  void unbind(LoraLayer& layer) override {
    if (redirectable_.redirect_target() == &layer) {
      redirectable_.redirect_to(nullptr);
    }
  }
  bool is_unmodified() const override {
    return false;
  }
  at::Tensor forward(LoraLayer& layer, const at::Tensor& input) override {
    return layer.run(input, /*operation=*/nullptr);
  }
  at::Tensor base_forward(
      const at::Tensor& input,
      const WeightOperation* /*operation*/) override {
    return redirectable_.base_forward(input);
  }

 private:
  nn::Redirectable& redirectable_;
};

class OverlayBinding : public LayerBinding {
 public:
  /// `member` is the weight of `module`.
  OverlayBinding(torch::nn::Module& module, at::Tensor& member)
      : module_(module),
        overlay_(std::make_shared<WeightOverlay>(module, member)) {}

  void bind(LoraLayer& layer) override {
    overlay_->install(layer);
  }
  void unbind(LoraLayer& /*layer*/) override {
    overlay_->remove();
  }
  void follow() override {
    overlay_->refresh();
  }
  BaseWeight raw(BaseWeight base) const override {
    return std::move(base).with_weight(overlay_->weight());
  }
  bool is_unmodified() const override {
    return true;
  }
  void check_in_place() const override {
    overlay_->check_in_place(module_.name());
  }
  /// The module's own forward meets the overlay, which calls `LoraLayer::run`.
  at::Tensor forward(LoraLayer& /*layer*/, const at::Tensor& input) override {
    TORCH_CHECK_VALUE(
        base_forward_,
        "[LoraLayer] a ",
        module_.name(),
        " does not take one tensor: call the layer itself");
    return base_forward_(module_, input);
  }
  at::Tensor base_forward(
      const at::Tensor& input,
      const WeightOperation* operation) override {
    return operation->run(
        input, operation->narrow(overlay_->weight()), operation->bias);
  }
  void set_base_forward(
      std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>
          base_forward) override {
    base_forward_ = std::move(base_forward);
  }

 private:
  torch::nn::Module& module_;
  std::shared_ptr<WeightOverlay> overlay_;
  std::function<at::Tensor(torch::nn::Module&, const at::Tensor&)>
      base_forward_;
};

} // namespace torchlora
