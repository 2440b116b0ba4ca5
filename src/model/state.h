#pragma once

#include <memory>
#include <string>
#include <vector>

#include <torchlora/model.h>

#include "model/saved_modules.h"

namespace torchlora {

/// What the copies of a handle share.
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
  /// The first adapter's: how the model was built.
  LoraConfig::LayerRanges layer_replication;
  SavedModules versions;
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

} // namespace torchlora
