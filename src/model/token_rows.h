#pragma once

#include <torchlora/model/trainable_tokens.h>

#include "model/sites.h"

namespace torchlora {

struct InjectionPlan;
class SavedModules;

/// A layer rows of whose weight an adapter trains.
struct TokenTarget {
  std::string name;
  std::shared_ptr<Module> layer;
  std::vector<int64_t> indices;
  /// The layers that compute with the same weight.
  std::vector<std::shared_ptr<Module>> tied = {};

  /// In files, behind "base_model.model.".
  std::string key() const {
    return name + "." + TrainableTokens::kName + "." + TrainableTokens::kDelta;
  }
  std::vector<int64_t> sizes() const;
};

/// Returns the rows that adapters train, by the names of their layers.
std::vector<std::pair<std::string, std::shared_ptr<TrainableTokens>>>
token_adapters(Module& model);

/// Returns those of a layer; nullptr if it has none.
std::shared_ptr<TrainableTokens> tokens_of(const Module& layer);

/// Returns the layers of `trainable_token_indices`. ValueError for names that
/// match no layer or one that cannot be; for a layer that LoRA or a whole
/// version of `plan` changes too; for a tied layer that cannot follow.
std::vector<TokenTarget> find_token_targets(
    const InjectionPlan& plan,
    const std::vector<TargetSite>& sites);

/// ValueError if one of the plan's targets computes with rows that an adapter
/// trains.
void check_targets_have_no_tokens(const InjectionPlan& plan);

/// ValueError if an adapter has a version of a table that the plan's rows are
/// of.
void check_tables_are_base(
    const SavedModules& versions,
    const InjectionPlan& plan);

/// Adds the plan's rows, inactive and frozen. If it throws, `remove_tokens`
/// takes back what it did.
void inject_tokens(const InjectionPlan& plan, const std::string& adapter_name);

/// Removes the rows of an adapter that is active nowhere.
void remove_tokens(Module& model, const std::string& adapter_name);

/// Takes what has no adapter any more out of the tree.
void remove_empty_token_rows(Module& model);

} // namespace torchlora
