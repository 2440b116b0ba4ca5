#pragma once

#include <concepts>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <type_traits>
#include <vector>

#include <torchlora/lora/layer.h>

namespace torchlora {

/// A base layer type that can be adapted.
struct LoraLayerType {
  /// As error messages call it, for example "torchlora::nn::Linear".
  std::string name;
  /// Whether a module is one.
  std::function<bool(torch::nn::Module&)> matches;
  /// Where its weight is.
  BaseWeightAccessor base_weight;
  std::function<std::shared_ptr<LoraLayer>(
      const std::shared_ptr<torch::nn::Module>&,
      BaseWeightAccessor)>
      /// Makes the LoRA layer of a base layer.
      create;
  /// As the layers that `create` makes call their factors.
  FactorNames factor_names = {};
  /// Puts `to` in the place of a tensor that is a member of the base layer and
  /// gives the member's name; "" if there is none. Empty: nobody knows.
  using Rebind = std::function<std::string(
      torch::nn::Module&,
      const at::Tensor& from,
      const at::Tensor& to)>;
  /// See `Rebind`.
  Rebind rebind = {};
};

/// `LoraLayerType::rebind` of the public members `weight` and `bias`.
template <class Base>
std::string
rebind_member(Base& base, const at::Tensor& from, const at::Tensor& to) {
  if constexpr (requires {
                  requires std::is_same_v<decltype(base.weight), at::Tensor>;
                }) {
    if (base.weight.is_same(from)) {
      base.weight = to;
      return "weight";
    }
  }
  if constexpr (requires {
                  requires std::is_same_v<decltype(base.bias), at::Tensor>;
                }) {
    if (base.bias.is_same(from)) {
      base.bias = to;
      return "bias";
    }
  }
  return "";
}

/// Which LoRA layer a base layer gets: the first type that matches, types
/// that users add before the built-in ones, the latest first. PEFT's
/// dispatchers. May be used from several threads.
class TORCHLORA_API LoraRegistry {
 public:
  /// The one of the process.
  static LoraRegistry& global();

  /// Adapts `Base` (an `XxxImpl`) by `Layer`, which is constructed from the
  /// base layer and the accessor:
  ///
  ///     LoraRegistry::global().add<MyImpl, torchlora::LoraLinear>(
  ///         "My", [](MyImpl& m) { return BaseWeight(m.weight, m.bias); });
  ///
  /// `LoraLinear` serves every layer that computes W x + b. `Base` is
  /// `nn::Redirectable`, or, not modified, names its weight's member
  /// (`lora/overlay.h`):
  ///
  ///     "Theirs", [](Theirs& m) {
  ///       return BaseWeight(m.weight, m.bias).member(m.weight);
  ///     }
  ///
  /// A layer whose tensors are not its members `weight` and `bias` can be
  /// untied if it has a `rebind` of its own.
  template <class Base, class Layer>
  void add(
      std::string name,
      std::function<BaseWeight(Base&)> base_weight,
      std::function<
          std::string(Base&, const at::Tensor& from, const at::Tensor& to)>
          rebind = rebind_member<Base>) {
    add(
        {std::move(name),
         [base_weight](torch::nn::Module& module) {
           auto* base = dynamic_cast<Base*>(&module);
           return base &&
               (dynamic_cast<nn::Redirectable*>(&module) ||
                base_weight(*base).member());
         },
         [base_weight = std::move(base_weight)](torch::nn::Module& module) {
           return base_weight(dynamic_cast<Base&>(module));
         },
         [](const std::shared_ptr<torch::nn::Module>& base_layer,
            BaseWeightAccessor accessor) -> std::shared_ptr<LoraLayer> {
           auto layer =
               std::make_shared<Layer>(base_layer, std::move(accessor));
           if constexpr (requires(Base& base, const at::Tensor& x) {
                           {
                             base.forward(x)
                           } -> std::convertible_to<at::Tensor>;
                         }) {
             layer->set_base_forward(
                 [](torch::nn::Module& module, const at::Tensor& input) {
                   return dynamic_cast<Base&>(module).forward(input);
                 });
           }
           return layer;
         },
         Layer::kFactorNames,
         [rebind = std::move(rebind)](
             torch::nn::Module& module,
             const at::Tensor& from,
             const at::Tensor& to) {
           return rebind(dynamic_cast<Base&>(module), from, to);
         }});
  }
  /// The same of a type that is made by hand.
  void add(LoraLayerType type);

  /// nullptr if no type matches.
  std::shared_ptr<const LoraLayerType> find(torch::nn::Module& module) const;
  /// The LoRA layer of `module`, without adapters. ValueError names the
  /// module and its type, what is supported and how to register it.
  std::shared_ptr<LoraLayer> create(
      const std::string& module_name,
      const std::shared_ptr<torch::nn::Module>& module) const;
  /// Names of the types, in the order in which they are tried.
  std::vector<std::string> names() const;

 private:
  LoraRegistry();
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const LoraLayerType>> types_;
};

} // namespace torchlora
