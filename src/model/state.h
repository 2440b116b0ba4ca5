#pragma once

#include <torchlora/model.h>

#include "model/guard_holds.h"
#include "model/saved_modules.h"
#include "model/sites.h"

namespace torchlora {

struct InjectionPlan;

/// What the copies of a handle share.
struct PeftState {
  struct Adapter {
    std::string name;
    /// With the targets resolved.
    LoraConfig config;
  };

  std::shared_ptr<Module> model;
  bool autocast_adapter_dtype = true;
  AdapterSet<Adapter> adapters;
  /// The first adapter's: how the model was built.
  LoraConfig::LayerRanges layer_replication;
  std::shared_ptr<SavedModules> saved = std::make_shared<SavedModules>();
  GuardHolds guards;
  /// Whether an adapter has warned of running statistics.
  bool has_warned = false;
  /// The function that removed the last adapter, if there is none.
  const char* emptied_by = "";

  /// Calls `torchlora::warn_of_running_statistics` until that has warned.
  void warn_of_running_statistics(
      const InjectionPlan& plan,
      const char* function);
  /// ValueError, saying what removed them, if there are no adapters.
  void check_not_empty(const char* function) const;

  /// Returns all that has adapters: LoRA layers, token rows, the saved modules.
  std::vector<TunerSite> tuner_layers() const;
  /// Returns those that are no LoRA layers.
  std::vector<TunerSite> own_layers() const;
  /// Whether an adapter has tensors or rows of the base model of its own.
  bool has_own(const std::string& adapter_name) const;
};

/// The library's own way to a handle's state.
struct StateAccess {
  static PeftState& of(const PeftModel& model) {
    return *model.state_;
  }
  static const std::shared_ptr<PeftState>& shared(const PeftModel& model) {
    return model.state_;
  }
  static PeftModel make(std::shared_ptr<PeftState> state) {
    return PeftModel(std::move(state));
  }
};

} // namespace torchlora
