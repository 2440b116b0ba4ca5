#pragma once

#include <torchlora/model.h>

#include "model/saved_modules.h"
#include "model/sites.h"
#include "model/token_rows.h"

namespace torchlora {

/// What an adapter will adapt, decided without touching the model.
///
/// An injection has two steps. `plan_injection` finds the targets and refuses
/// what cannot be; `inject` then builds every new layer aside
/// (`prepare_adapter` draws its factors and may throw), puts all into the
/// module tree, and writes the base weights at the end (`commit_adapter`). An
/// error on the way takes back what has been changed (`lora/undo.h`), so that
/// it leaves the model as it was.
struct InjectionPlan {
  struct Target {
    TargetSite site;
    int64_t r;
    double lora_alpha;
  };
  Module* model = nullptr;
  /// With the targets resolved.
  LoraConfig config;
  InjectOptions options;
  std::vector<Target> targets;
  std::vector<SavedTensor> saved;
  std::vector<TokenTarget> tokens;
  /// Whether the factors will be overwritten.
  bool is_loaded = false;
};

/// ValueError where `get_peft_model` documents it; warns by name of list
/// entries and patterns that matched nothing.
/// `is_loaded`: the configuration is a file's, whose `modules_to_save` may name
/// what other models of its kind have.
InjectionPlan plan_injection(
    Module& model,
    const LoraConfig& config,
    const std::string& adapter_name,
    const InjectOptions& options = {},
    bool is_loaded = false);

/// Warns of modules whose buffers a training forward changes, as a batch norm's
/// running statistics, and of which the adapter has no version of its own.
/// Returns whether it did.
bool warn_of_running_statistics(
    const InjectionPlan& plan,
    const char* function);

/// ValueError if another adapter has its own version of a weight that the plan
/// would change or whose rows it would train.
void check_is_base(const SavedModules& saved, const InjectionPlan& plan);

using Layers = std::vector<std::shared_ptr<LoraLayer>>;

/// Adds the adapter, inactive and frozen, with its `plan.saved` to `saved`, and
/// runs `activate` with its layers; or leaves the model as it was. `activate`
/// may throw and must not change the factors, which the base weights still
/// depend on.
Layers inject(
    const InjectionPlan& plan,
    const std::string& adapter_name,
    SavedModules& saved,
    const std::function<void(const Layers&)>& activate = [](const Layers&) {});

/// What is left to do when an adapter is in the model.
using Finish = std::function<void(const InjectionPlan&)>;

/// Returns the handle of a model whose first adapter `inject_first` adds:
/// freezes the base, and makes the adapter active by `finish`. Errors and
/// warnings name `function`.
PeftModel adapt(
    const char* function,
    Module& model,
    const std::string& adapter_name,
    const std::function<void(SavedModules&, const Finish& finish)>&
        inject_first);

} // namespace torchlora
