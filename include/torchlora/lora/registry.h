#pragma once

#include <concepts>
#include <mutex>
#include <type_traits>

#include <torchlora/lora/layer.h>

namespace torchlora {

/// One entry of the registry: a base layer type that can be adapted and how to
/// make its LoRA layer.
struct LoraLayerType {
  /// The base layer's type in error messages, for example
  /// "torchlora::nn::Linear".
  std::string name;
  /// Returns whether a module has this type.
  std::function<bool(Module&)> matches;
  /// Returns the weight of a module of this type.
  BaseWeightAccessor base_weight;
  /// Makes the LoRA layer for a base layer and its accessor, without adapters.
  std::function<std::shared_ptr<LoraLayer>(
      const std::shared_ptr<Module>&,
      BaseWeightAccessor)>
      create;
  /// The factor names of the LoRA layers that `create` makes.
  FactorNames factor_names = {};
  /// Whether torchlora::nn has a layer of the same name.
  bool has_counterpart = false;
};

/// The table that maps the type of a base layer to its LoRA layer. The first
/// matching entry counts; entries that users add come before the built-in ones,
/// the latest first. Thread-safe. PEFT's dispatchers.
class TORCHLORA_API LoraRegistry {
 public:
  /// Returns the only registry of the process. An injection uses it.
  static LoraRegistry& global();

  /// Registers `Layer` as the LoRA layer for base layers of type `Base` (an
  /// `XxxImpl`). `base_weight` returns the weight of a `Base`. `Layer` is
  /// constructed from the base layer and the accessor:
  ///
  ///     LoraRegistry::global().add<MyImpl, torchlora::LoraLinear>(
  ///         "My", [](MyImpl& m) { return BaseWeight(m.weight, m.bias); });
  ///
  /// `LoraLinear` serves every layer that computes W x + b. `Base` derives from
  /// `nn::Redirectable`. If it does not, the accessor must name the weight
  /// member, so that the weight overlay can adapt it (`lora/overlay.h`):
  ///
  ///     "Theirs", [](Theirs& m) {
  ///       return BaseWeight(m.weight, m.bias).member(m.weight);
  ///     }
  template <class Base, class Layer, class Accessor>
  void
  add(std::string name, Accessor base_weight, bool has_counterpart = false) {
    constexpr bool kIsModule = std::derived_from<Base, Module>;
    constexpr bool kIsAccessor =
        std::is_invocable_r_v<BaseWeight, Accessor&, Base&>;
    constexpr bool kIsLayer = std::derived_from<Layer, LoraLayer> &&
        std::constructible_from<Layer,
                                const std::shared_ptr<Module>&,
                                BaseWeightAccessor>;
    static_assert(
        kIsModule,
        "LoraRegistry::add<Base, Layer>: Base must derive from "
        "torch::nn::Module, as an XxxImpl does; a holder Xxx does not");
    static_assert(
        !kIsModule || kIsAccessor,
        "LoraRegistry::add<Base, Layer>: the accessor must take a Base& and "
        "return a torchlora::BaseWeight");
    static_assert(
        kIsLayer,
        "LoraRegistry::add<Base, Layer>: Layer must derive from "
        "torchlora::LoraLayer and have a constructor from (const "
        "std::shared_ptr<Module>& base_layer, BaseWeightAccessor accessor)");
    if constexpr (kIsModule && kIsAccessor && kIsLayer) {
      add(entry<Base, Layer>(
          std::move(name), std::move(base_weight), has_counterpart));
    }
  }
  /// Registers an entry whose functions the caller wrote. It is tried before
  /// all entries that exist.
  void add(LoraLayerType type);

  /// Returns the first entry whose type matches `module`, or nullptr.
  std::shared_ptr<const LoraLayerType> find(Module& module) const;
  /// Makes the LoRA layer for `module`, without adapters. ValueError for a type
  /// that is not registered; the message names the module and its type, lists
  /// the registered types and says how to register one.
  std::shared_ptr<LoraLayer> create(
      const std::string& module_name,
      const std::shared_ptr<Module>& module) const;
  /// Returns the names of the registered types, in the order in which they are
  /// tried.
  std::vector<std::string> names() const;

 private:
  template <class Base, class Layer>
  static LoraLayerType entry(
      std::string name,
      std::function<BaseWeight(Base&)> base_weight,
      bool has_counterpart) {
    return {
        std::move(name),
        [base_weight](Module& module) {
          auto* base = dynamic_cast<Base*>(&module);
          return base &&
              (dynamic_cast<nn::Redirectable*>(&module) ||
               base_weight(*base).member());
        },
        [base_weight](Module& module) {
          return base_weight(dynamic_cast<Base&>(module));
        },
        [](const std::shared_ptr<Module>& base_layer,
           BaseWeightAccessor accessor) -> std::shared_ptr<LoraLayer> {
          auto layer = std::make_shared<Layer>(base_layer, std::move(accessor));
          if constexpr (requires(Base& base, const Tensor& x) {
                          { base.forward(x) } -> std::convertible_to<Tensor>;
                        }) {
            layer->set_base_forward([](Module& module, const Tensor& input) {
              return dynamic_cast<Base&>(module).forward(input);
            });
          }
          return layer;
        },
        Layer::kFactorNames,
        has_counterpart};
  }

  LoraRegistry();
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<const LoraLayerType>> types_;
};

} // namespace torchlora
