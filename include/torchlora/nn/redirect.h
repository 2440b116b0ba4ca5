#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <torchlora/export.h>

namespace torchlora::nn {

/// Where an adapted layer sends its forward: a LoRA layer.
class TORCHLORA_API ForwardTarget {
 public:
  virtual ~ForwardTarget() = default;
  /// [*, in_features] → [*, out_features] in the redirected layer's place.
  virtual at::Tensor forward(const at::Tensor& input) = 0;
};

/// A layer whose forward can be redirected. A typed member of the user's
/// module keeps pointing at the layer while the module tree holds the LoRA
/// layer that replaced it; the redirection makes both the same function.
///
/// The target is not owned: the LoRA layer owns the redirected layer (its
/// `base_layer`) and ends the redirection when it is destroyed. A copy of the
/// layer would not be redirected, so a redirected layer does not `clone()`.
class TORCHLORA_API Redirectable {
 public:
  virtual ~Redirectable() = default;

  /// The layer's own function, never redirected.
  virtual at::Tensor base_forward(const at::Tensor& input) = 0;

  /// Names of the children that are adapted together with the layer, each by
  /// a LoRA layer of its own, and never alone.
  virtual std::vector<std::string> adapted_children() const {
    return {};
  }

  /// Sends every following forward to `target`; nullptr ends the redirection.
  void redirect_to(ForwardTarget* target) noexcept {
    target_ = target;
  }

  /// nullptr if the layer is not redirected.
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

  /// For `clone()`: a copy of a redirected layer would be the base layer only
  /// (`Sequential::clone()` reaches it past the LoRA layer).
  void check_cloneable() const {
    TORCH_CHECK(
        !target_,
        "[clone] the layer is adapted and a copy would be the base layer only; "
        "merge and unload the adapter first");
  }

  /// What the layer's `forward` returns: the target's, or `base_forward`.
  at::Tensor redirected_forward(const at::Tensor& input) {
    return target_ ? target_->forward(input) : base_forward(input);
  }

 private:
  ForwardTarget* target_ = nullptr;
};

} // namespace torchlora::nn
