#pragma once

#include <memory>
#include <optional>
#include <type_traits>

#include <torch/nn/module.h>

#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

/// A drop-in type for the LibTorch layer `Base` (an `XxxImpl` with
/// `Tensor forward(const Tensor&)`) that a LoRA layer can take over. Not
/// adapted it is `Base`; adapted, its forward is the LoRA layer's. The cost of
/// not being adapted is one null check.
///
/// A class that derives from it and adds to it names itself as `Self` and has
/// a constructor from `const Base&`: `clone()` gives a `Self`. An adapted layer
/// throws (unload first).
template <class Base, class Self = void>
class Adaptable : public Base, public Redirectable {
 public:
  using Base::Base;
  /// A copy of a layer, not adapted.
  explicit Adaptable(const Base& base) : Base(base) {}

  /// The LoRA layer's, or `base_forward`.
  at::Tensor forward(const at::Tensor& input) {
    return redirected_forward(input);
  }

  /// The forward of `Base`.
  at::Tensor base_forward(const at::Tensor& input) override {
    return Base::forward(input);
  }

  /// Throws while the layer is adapted.
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
