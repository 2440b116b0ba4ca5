#pragma once

#include <concepts>
#include <memory>
#include <optional>
#include <type_traits>

#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

/// A module type with `Tensor forward(const Tensor&)`: an `XxxImpl`, not the
/// holder `Xxx`.
template <class Base>
concept AdaptableBase = std::derived_from<Base, Module> &&
    requires(Base& base, const Tensor& input) {
      { base.forward(input) } -> std::convertible_to<Tensor>;
    };

/// A drop-in replacement for the LibTorch layer `Base` (an `XxxImpl` with
/// `Tensor forward(const Tensor&)`) whose forward a LoRA layer can take over.
/// Without an adapter it computes what `Base` does, at the cost of one null
/// check.
///
/// A derived class passes itself as `Self` and has a constructor from
/// `const Base&`; `clone()` then makes a `Self` from a copy of `Base`. It does
/// not know the members of `Self`: a class with members overrides `clone()`,
/// calls `Adaptable::clone(device)` and copies them, as `nn::EmbeddingImpl`
/// does.
template <AdaptableBase Base, class Self = void>
class Adaptable : public Base, public Redirectable {
 public:
  using Base::Base;
  /// Makes a layer that shares the tensors of `base`. No adapter is attached to
  /// the new layer.
  explicit Adaptable(const Base& base) : Base(base) {}

  /// Returns the LoRA layer's forward if an adapter is attached to the layer,
  /// otherwise `base_forward(input)`.
  Tensor forward(const Tensor& input) {
    return redirected_forward(input);
  }

  /// Returns the forward of the LibTorch layer `Base`, without any adapter.
  Tensor base_forward(const Tensor& input) override {
    return Base::forward(input);
  }

  /// Returns a copy with its own tensors, on `device` if given. Throws
  /// c10::Error while an adapter is attached to the layer, because the copy
  /// would lack it; unload the adapter first.
  std::shared_ptr<Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    check_cloneable();
    using Copy = std::conditional_t<std::is_void_v<Self>, Adaptable, Self>;
    return std::make_shared<Copy>(
        *std::dynamic_pointer_cast<Base>(Base::clone(device)));
  }
};

} // namespace torchlora::nn
