#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/nn/redirect.h>

namespace torchlora {

/// How a LoRA layer gets between a module and its weight.
///
/// `RedirectBinding`: the module is `nn::Redirectable` and sends its forward
/// to the LoRA layer, which computes the whole of it. `WeightOverlay`: the
/// module knows nothing; its weight member becomes a stand-in that calls the
/// LoRA layer where one of LibTorch's operations meets it.
class LayerBinding {
 public:
  virtual ~LayerBinding() = default;

  virtual void bind(LoraLayer& layer) = 0;
  virtual void unbind(LoraLayer& layer) = 0;
  /// Follows the base layer after it was moved.
  virtual void follow() {}

  /// Gives the accessor of the base layer the raw weight.
  virtual BaseWeight with_raw_weight(BaseWeight base) const {
    return base;
  }
  /// ValueError, which names `function`, if the adapter acts on nothing any
  /// more.
  virtual void check_in_place(const char* /*function*/) const {}

  /// What `LoraLayer::forward` returns.
  virtual Tensor forward(LoraLayer& layer, const Tensor& input) = 0;
  /// Returns the base layer's own output.
  virtual Tensor base_forward(const LayerCall& call) = 0;
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
  Tensor forward(LoraLayer& layer, const Tensor& input) override {
    return layer.run(input, /*operation=*/nullptr);
  }
  Tensor base_forward(const LayerCall& call) override {
    return redirectable_.base_forward(call.input);
  }

 private:
  nn::Redirectable& redirectable_;
};

} // namespace torchlora
