#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>

namespace torchlora {

struct PeftModel::State {
  struct Adapter {
    std::string name;
    /// With the targets resolved.
    LoraConfig config;
  };

  std::shared_ptr<torch::nn::Module> model;
  bool autocast_adapter_dtype = true;
  std::vector<Adapter> adapters;
  std::vector<std::string> active;

  Adapter* find(const std::string& adapter_name);
  /// ValueError if there is none of that name.
  Adapter& at(const std::string& adapter_name);
};

/// A module of a model, in the order in which PEFT visits them: parents
/// first, no module twice, nothing inside of a layer that is or can be
/// adapted.
struct ModuleSite {
  std::string name;
  std::shared_ptr<torch::nn::Module> module;
  torch::nn::Module* parent;
  std::string child_name;
  /// Set where `module` is a LoRA layer already.
  std::shared_ptr<LoraLayer> layer;
  /// Set where it can become one.
  std::shared_ptr<const LoraLayerType> type;
  /// The name under which PEFT knows the layer: that of the module that owns
  /// the weight ("….q_proj.linear"); `name` for all other modules.
  std::string peft_name;

  /// Of a layer that is or can be adapted.
  BaseWeight base_weight() const {
    return layer ? layer->base_weight() : type->base_weight(*module);
  }

  std::string lora_name() const {
    return layer || type ? peft_name : name;
  }
};

/// Puts a LoRA layer's base layer back into the tree.
void remove_layer(const ModuleSite& site);

std::vector<ModuleSite> module_sites(torch::nn::Module& model);

/// The LoRA layers of a model.
std::vector<ModuleSite> lora_sites(torch::nn::Module& model);

/// What an adapter will adapt, decided without touching the model.
struct InjectionPlan {
  struct Target {
    ModuleSite site;
    int64_t r;
    double lora_alpha;
    /// Of the configuration's statistics, what is the module's.
    at::Tensor statistics = {};
  };
  /// With the targets resolved, and without what is for one injection only.
  LoraConfig config;
  std::vector<Target> targets;
  InitProgress progress = {};
  /// Whether the factors will be overwritten.
  bool is_loaded = false;
};

/// ValueError where `get_peft_model` documents it; warns by name of list
/// entries and patterns that matched nothing.
InjectionPlan plan_injection(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::string& adapter_name);

/// Adds the adapter, inactive and frozen, or leaves the model as it was.
std::vector<std::shared_ptr<LoraLayer>> inject(
    const InjectionPlan& plan,
    const std::string& adapter_name,
    bool autocast_adapter_dtype);

/// The handle of a model whose first adapter `inject_first` adds: freezes the
/// base and makes the adapter active.
PeftModel adapt(
    torch::nn::Module& model,
    const std::string& adapter_name,
    const std::function<LoraConfig()>& inject_first);

/// ValueError, naming both, if a base weight of `sites` is another module's
/// parameter too.
void check_not_tied(
    torch::nn::Module& model,
    const std::vector<ModuleSite>& sites);

} // namespace torchlora
