#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/lora/registry.h>

namespace torchlora {

/// A place in a model that an adapter may target, in the order in which PEFT
/// visits them: parents first, no module twice, nothing inside a layer that is
/// or can be adapted.
struct TargetSite {
  enum class Kind {
    kModule,
    /// A child that is adapted together with the site before it and never
    /// alone (`adapted_children`).
    kPart,
    /// A parameter of `nn::StackedExperts`. `name` is the parameter's, and no
    /// module is called so.
    kParameter,
  };
  using enum Kind;

  std::string name;
  std::shared_ptr<Module> module;
  Module* parent;
  std::string child_name;
  /// Set where `module` is a LoRA layer already.
  std::shared_ptr<LoraLayer> layer;
  /// Set where it can become one.
  std::shared_ptr<const LoraLayerType> type;
  /// The name under which PEFT knows the layer: that of the module that owns
  /// the weight ("….q_proj.linear"); `name` for all other modules.
  std::string peft_name;
  Kind kind = kModule;
  /// The name of a `kParameter` in `module`.
  std::string parameter = {};

  bool is_adaptable() const {
    return layer || type;
  }

  /// Requires `is_adaptable`.
  BaseWeight base_weight() const {
    return layer ? layer->base_weight() : type->base_weight(*module);
  }

  /// What the names of all below the module begin with.
  std::string prefix() const {
    return kind == kParameter ? name.substr(0, name.size() - parameter.size())
                              : name + ".";
  }

  std::string lora_name() const {
    return is_adaptable() ? peft_name : name;
  }
};

std::vector<TargetSite> target_sites(Module& model);

/// The sites that are LoRA layers.
std::vector<TargetSite> lora_sites(Module& model);

/// Returns the name that a parameter has in the model that is not adapted; ""
/// for one of an adapter. `layers` are the model's `lora_sites`.
std::string name_without_layers(
    std::string name,
    const std::vector<TargetSite>& layers);

/// Something in the model that has adapters.
struct TunerSite {
  /// For token rows "….token_adapter".
  std::string name;
  /// What the keys of its tensors in files begin with; may be empty.
  std::string peft_name;
  std::shared_ptr<TunerLayer> layer;
};

/// Returns the LoRA layers, then the token rows.
std::vector<TunerSite> tuner_layers(Module& model);
/// Returns the token rows.
std::vector<TunerSite> token_sites(Module& model);

/// Appends the sites of the parameters of `nn::StackedExperts` behind `site`,
/// that of their module. `module` is the child in the tree, which may be a LoRA
/// layer of a parameter.
void visit_parameters(
    const TargetSite& site,
    const std::shared_ptr<Module>& module,
    std::vector<TargetSite>& sites);

/// Puts a LoRA layer's base layer back into the tree.
void remove_layer(const TargetSite& site);

} // namespace torchlora
