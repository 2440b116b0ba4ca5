#pragma once

#include <string>
#include <vector>

#include <c10/util/Exception.h>
#include <torchlora/tensor.h>

#include <torchlora/export.h>

// How a LoRA layer takes over a layer of the user's model. LibTorch's `forward`
// is not virtual, and nobody can replace a typed member of a module from
// outside. So two things happen at an injection. The LoRA layer replaces the
// layer in the module tree, where names, parameters, devices and files come
// from. The layer itself, which the user's typed member still points at, sends
// its forward to the LoRA layer. A call through the member and a call through
// the tree then compute the same.

namespace torchlora::nn {

/// The place that an adapted layer sends its forward to: a LoRA layer.
class TORCHLORA_API ForwardTarget {
 public:
  virtual ~ForwardTarget();
  /// Computes [*, in_features] → [*, out_features] instead of the layer.
  virtual Tensor forward(const Tensor& input) = 0;
};

/// A layer whose forward can be redirected. Inherit it beside
/// `torch::nn::Module`, move the layer's own computation to `base_forward`, and
/// let `forward` return `redirected_forward(input)`.
///
/// The layer does not own its target. The LoRA layer owns the layer (its
/// `base_layer`) and ends the redirection in its destructor. A copy of the
/// layer is not redirected, so a redirected layer refuses to `clone()`.
class TORCHLORA_API Redirectable {
 public:
  virtual ~Redirectable();

  /// The layer's own function, never redirected.
  virtual Tensor base_forward(const Tensor& input) = 0;

  /// Names the children that are adapted together with the layer, each by a
  /// LoRA layer of its own, and never alone.
  virtual std::vector<std::string> adapted_children() const {
    return {};
  }

  /// Sends every later forward to `target`; nullptr ends the redirection.
  void redirect_to(ForwardTarget* target) noexcept {
    target_ = target;
  }

  /// Returns nullptr if the layer is not redirected.
  ForwardTarget* redirect_target() const noexcept {
    return target_;
  }

 protected:
  Redirectable() = default;
  /// @{
  /// A copy is not redirected.
  Redirectable(const Redirectable& /*other*/) noexcept {}
  Redirectable& operator=(const Redirectable& /*other*/) noexcept {
    return *this;
  }
  /// @}

  /// Throws while the layer is redirected. Every `clone()` calls it, as the
  /// copy would be the base layer only: `Sequential::clone()` reaches the layer
  /// and not the LoRA layer.
  void check_cloneable() const {
    TORCH_CHECK(
        !target_,
        "[clone] the layer is adapted and a copy would be the base layer only; "
        "merge and unload the adapter first");
  }

  /// Returns the target's forward, or `base_forward` without a target.
  Tensor redirected_forward(const Tensor& input) {
    return target_ ? target_->forward(input) : base_forward(input);
  }

 private:
  ForwardTarget* target_ = nullptr;
};

} // namespace torchlora::nn
