#pragma once

#include <concepts>
#include <mutex>

#include <torchlora/lora/layer.h>

namespace torchlora {

/// A base layer type that can be adapted.
struct LoraLayerType {
  /// The name in error messages, for example "torchlora::nn::Linear".
  std::string name;
  /// Whether a module is one.
  std::function<bool(torch::nn::Module&)> matches;
  /// Where its weight is.
  BaseWeightAccessor base_weight;
  /// Makes the LoRA layer of a base layer.
  std::function<std::shared_ptr<LoraLayer>(
      const std::shared_ptr<torch::nn::Module>&,
      BaseWeightAccessor)>
      create;
  /// The factor names of the layers that `create` makes.
  FactorNames factor_names = {};
};

/// Which LoRA layer a base layer gets: the first type that matches, types
/// that users add before the built-in ones, the latest first. PEFT's
/// dispatchers. May be used from several threads.
class TORCHLORA_API LoraRegistry {
 public:
  /// Returns the one of the process.
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
  template <class Base, class Layer>
  void add(std::string name, std::function<BaseWeight(Base&)> base_weight) {
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
           if constexpr (requires(Base& base, const Tensor& x) {
                           { base.forward(x) } -> std::convertible_to<Tensor>;
                         }) {
             layer->set_base_forward(
                 [](torch::nn::Module& module, const Tensor& input) {
                   return dynamic_cast<Base&>(module).forward(input);
                 });
           }
           return layer;
         },
         Layer::kFactorNames});
  }
  /// Adds a type that is made by hand.
  void add(LoraLayerType type);

  /// nullptr if no type matches.
  std::shared_ptr<const LoraLayerType> find(torch::nn::Module& module) const;
  /// Returns the LoRA layer of `module`, without adapters. ValueError names the
  /// module and its type, what is supported and how to register it.
  std::shared_ptr<LoraLayer> create(
      const std::string& module_name,
      const std::shared_ptr<torch::nn::Module>& module) const;
  /// Returns the names of the types, in the order in which they are tried.
  std::vector<std::string> names() const;

 private:
  LoraRegistry();
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const LoraLayerType>> types_;
};

} // namespace torchlora
