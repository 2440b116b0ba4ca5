#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/model/trainable_tokens.h>

#include "model/saved_modules.h"

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
  /// Whether the active adapters train.
  bool trainable = false;
  /// Of the first adapter: how the model was built.
  LoraConfig::LayerRanges layer_replication;
  ParameterVersions versions;
  int disabled = 0;

  /// Gives the base tensors the active adapters' versions, or the base's own
  /// while adapters are disabled, and their rows.
  void select_versions();
  /// Whether an adapter has tensors or rows of the base model of its own.
  bool has_own(const std::string& adapter_name) const;
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
  /// Whether it is adapted with the site before it and never alone: a child
  /// that a layer names in `adapted_children`.
  bool is_part = false;
  /// Of a parameter of `nn::StackedExperts` its name in `module`; `name` is
  /// then the parameter's, and no module is called so.
  std::string parameter = {};

  /// Of a layer that is or can be adapted.
  BaseWeight base_weight() const {
    return layer ? layer->base_weight() : type->base_weight(*module);
  }

  /// What the names of all below the module begin with.
  std::string prefix() const {
    return parameter.empty() ? name + "."
                             : name.substr(0, name.size() - parameter.size());
  }

  std::string lora_name() const {
    return layer || type ? peft_name : name;
  }
};

/// Puts a LoRA layer's base layer back into the tree.
void remove_layer(const ModuleSite& site);
/// The sites of the parameters of `nn::StackedExperts`, behind that of the
/// module; `module` is the child in the tree, perhaps a LoRA layer of a
/// parameter.
void visit_parameters(
    const ModuleSite& site,
    const std::shared_ptr<torch::nn::Module>& module,
    std::vector<ModuleSite>& sites);

/// Those that a configuration targets, each called as PEFT's file will call it.
/// ValueError for a parameter that cannot be adapted; warns by name of entries
/// that matched nothing.
std::vector<ModuleSite> targeted_parameters(
    torch::nn::Module& model,
    const std::vector<ModuleSite>& sites,
    const LoraConfig& config);

/// Warns of entries of a configuration's field, if there are some.
void warn_unused(
    const char* field,
    const std::vector<std::string>& entries,
    const char* what);

std::vector<ModuleSite> module_sites(torch::nn::Module& model);

/// The LoRA layers of a model.
std::vector<ModuleSite> lora_sites(torch::nn::Module& model);

/// A layer rows of whose weight an adapter trains.
struct TokenTarget {
  std::string name;
  std::shared_ptr<torch::nn::Module> layer;
  std::vector<int64_t> indices;
  /// The layers that compute with the same weight.
  std::vector<std::shared_ptr<torch::nn::Module>> tied = {};

  /// In files, behind "base_model.model.".
  std::string key() const {
    return name + "." + TrainableTokens::kName + "." + TrainableTokens::kDelta;
  }
  std::vector<int64_t> sizes() const;
};

/// What an adapter will adapt, decided without touching the model.
struct InjectionPlan {
  struct Target {
    ModuleSite site;
    int64_t r;
    double lora_alpha;
    /// Of the configuration's statistics, what is the module's.
    at::Tensor statistics = {};
  };
  torch::nn::Module* model = nullptr;
  /// With the targets resolved, and without what is for one injection only.
  LoraConfig config;
  std::vector<Target> targets;
  std::vector<OwnedTensor> owned;
  std::vector<TokenTarget> tokens;
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
    const std::function<InjectionPlan()>& inject_first);

/// Enters the heads that the configuration's task type trains, as PEFT does,
/// in its `modules_to_save`.
void add_task_heads(torch::nn::Module& model, LoraConfig& config);

/// The tensors that an adapter has versions of: those of the modules to save
/// and, by `config.bias()`, biases of the model and of `adapted`. Warns of
/// entries without a module; ValueError for a module that is adapted or tied.
std::vector<OwnedTensor> find_owned_tensors(
    torch::nn::Module& model,
    const LoraConfig& config,
    const std::vector<ModuleSite>& adapted);

/// Warns if an initialiser took the update of an adapter that is lost out of
/// the base weights: they are not the original ones.
void warn_of_residual(
    const std::vector<ModuleSite>& sites,
    const std::function<bool(const std::string&)>& is_lost,
    const char* function);

/// The weight of a layer, if it is not its registered parameter: tied by
/// `layer->weight = other->weight`.
const at::Tensor* assigned_weight(torch::nn::Module& module);

/// The rows that adapters train, by the names of their layers.
std::vector<std::pair<std::string, std::shared_ptr<TrainableTokens>>>
token_adapters(torch::nn::Module& model);

/// Those of a layer; nullptr if it has none.
std::shared_ptr<TrainableTokens> tokens_of(const torch::nn::Module& layer);

/// The layers of `trainable_token_indices`. ValueError for names that match no
/// layer or one that cannot be; for a layer that LoRA or a whole version of
/// `plan` changes too; for a tied layer that cannot follow.
std::vector<TokenTarget> find_token_targets(
    const InjectionPlan& plan,
    const std::vector<ModuleSite>& sites);

/// ValueError if one of the plan's targets computes with rows that an adapter
/// trains.
void check_targets_have_no_tokens(const InjectionPlan& plan);

/// ValueError if an adapter has a version of a table that the plan's rows are
/// of.
void check_tables_are_base(
    const ParameterVersions& versions,
    const InjectionPlan& plan);

/// Adds the plan's rows, inactive and frozen, or leaves the model as it was.
void inject_tokens(
    const InjectionPlan& plan,
    const std::string& adapter_name,
    bool autocast_adapter_dtype);

/// Deletes the rows of one adapter, or takes those of all out of the tree;
/// merged ones stay in the weight.
void delete_tokens(torch::nn::Module& model, const std::string& adapter_name);
void remove_tokens(torch::nn::Module& model);

/// A tensor that shares memory with another.
struct Tie {
  std::string name;
  /// The same tensor object.
  bool is_same = false;
  /// nullptr of the model's output head.
  torch::nn::Module* module = nullptr;
};

/// Whether the tensors share memory.
bool overlap(const at::Tensor& a, const at::Tensor& b);

/// The tensors outside of `module` that share memory with `tensor`; those that
/// a layer has twice are there twice. "The model's output head" is one too.
std::vector<Tie> ties_of(
    torch::nn::Module& model,
    torch::nn::Module& module,
    const at::Tensor& tensor);

/// A tensor outside of `module` that shares memory with `tensor`.
std::optional<Tie> tied_to(
    torch::nn::Module& model,
    torch::nn::Module& module,
    const at::Tensor& tensor);

/// What a change writes to: a layer's weight, or its bias.
struct WrittenTensor {
  ModuleSite site;
  bool is_bias = false;

  at::Tensor tensor() const {
    const auto base = site.base_weight();
    return is_bias ? base.bias() : base.weight();
  }
};

/// ValueError, naming both, if a tensor that `change` ("a merge") writes to is
/// another module's too.
void check_not_tied(
    torch::nn::Module& model,
    const std::vector<WrittenTensor>& written,
    const std::string& change);

/// ValueError if the plan's initialiser would change a base weight that is
/// another module's or another adapter's too: before anything is decomposed.
void check_base_may_change(const InjectionPlan& plan);

} // namespace torchlora
