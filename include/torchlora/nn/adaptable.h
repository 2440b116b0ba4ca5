#pragma once

#include <memory>
#include <optional>
#include <type_traits>

#include <torch/nn/module.h>

#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

/// Makes a drop-in type for the LibTorch layer `Base` (an `XxxImpl` with
/// `Tensor forward(const Tensor&)`) that a LoRA layer can take over. Without an
/// adapter it is `Base`, at the cost of one null check. With an adapter its
/// forward is the LoRA layer's.
///
/// A class that derives from it and adds to it passes itself as `Self` and has
/// a constructor from `const Base&`; `clone()` then returns a `Self`.
template <class Base, class Self = void>
class Adaptable : public Base, public Redirectable {
 public:
  using Base::Base;
  /// Copies a layer; the copy is not adapted.
  explicit Adaptable(const Base& base) : Base(base) {}

  /// Runs the LoRA layer, or `base_forward` if the layer is not adapted.
  Tensor forward(const Tensor& input) {
    return redirected_forward(input);
  }

  /// The forward of `Base`.
  Tensor base_forward(const Tensor& input) override {
    return Base::forward(input);
  }

  /// Throws while the layer is adapted; unload the adapter first.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device =
          std::nullopt) const override {
    check_cloneable();
    using Copy = std::conditional_t<std::is_void_v<Self>, Adaptable, Self>;
    return std::make_shared<Copy>(
        *std::dynamic_pointer_cast<Base>(Base::clone(device)));
  }
};

} // namespace torchlora::nn
