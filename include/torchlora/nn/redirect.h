#pragma once

#include <c10/util/Exception.h>
#include <torchlora/types.h>

#include <torchlora/export.h>

// How a LoRA layer takes over a layer of the user's model. LibTorch's `forward`
// is not virtual, and nobody can replace a typed member of a module from
// outside. So two things happen at an injection. The LoRA layer replaces the
// layer in the module tree, where names, parameters, devices and files come
// from. The layer itself, which the user's typed member still points at, sends
// its forward to the LoRA layer. A call through the member and a call through
// the tree then compute the same.

namespace torchlora::nn {

/// The object that computes the forward of an adapted layer instead of the
/// layer: a LoRA layer, or the trained rows of `trainable_token_indices`.
class TORCHLORA_API ForwardTarget {
 public:
  virtual ~ForwardTarget();
  /// Computes the output of the adapted layer for `input`, with the shapes of
  /// the layer's own forward. `Redirectable` calls it instead of
  /// `base_forward`.
  virtual Tensor forward(const Tensor& input) = 0;
};

/// A layer whose forward a LoRA layer can take over. Inherit it beside
/// `torch::nn::Module`, move the layer's own computation to `base_forward`, and
/// let `forward` return `redirected_forward(input)`.
///
/// The layer does not own the LoRA layer. The LoRA layer owns this layer (its
/// `base_layer`) and gives the forward back in its destructor. A copy of the
/// layer would lack the adapter, so an adapted layer refuses to `clone()`.
class TORCHLORA_API Redirectable {
 public:
  virtual ~Redirectable();

  /// Computes the layer's own function, without any adapter.
  virtual Tensor base_forward(const Tensor& input) = 0;

  /// Returns the names of the children that torchlora adapts together with this
  /// layer and never alone. Each child gets a LoRA layer of its own.
  virtual std::vector<std::string> adapted_children() const {
    return {};
  }

  /// Makes `redirected_forward` call `target` from now on; nullptr makes it
  /// call `base_forward` again. A LoRA layer calls this when it is attached and
  /// when it is destroyed.
  void redirect_to(ForwardTarget* target) noexcept {
    target_ = target;
  }

  /// Returns the object that takes over this layer's forward (usually a LoRA
  /// layer), or nullptr if no adapter is attached.
  ForwardTarget* redirect_target() const noexcept {
    return target_;
  }

 protected:
  Redirectable() = default;
  /// @{
  /// Copies nothing from `other`. A new layer has no adapter, and an assignment
  /// leaves the adapter of this layer attached.
  Redirectable(const Redirectable& /*other*/) noexcept {}
  Redirectable& operator=(const Redirectable& /*other*/) noexcept {
    return *this;
  }
  /// @}

  /// Throws c10::Error while a LoRA layer takes over this layer's forward,
  /// because a copy would lack the adapter. Every `clone()` of a derived class
  /// calls it: `Sequential::clone()` reaches the layer and not the LoRA layer.
  void check_cloneable() const {
    TORCH_CHECK(
        !target_,
        "[clone] the layer is adapted and a copy would be the base layer only; "
        "merge and unload the adapter first");
  }

  /// Returns the forward of the LoRA layer if one is attached, otherwise
  /// `base_forward(input)`. The forward of a derived class returns this.
  Tensor redirected_forward(const Tensor& input) {
    return target_ ? target_->forward(input) : base_forward(input);
  }

 private:
  ForwardTarget* target_ = nullptr;
};

} // namespace torchlora::nn
