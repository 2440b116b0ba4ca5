// A module that is registered twice has two names. It is adapted under the
// first, as PEFT does; a configuration that means it by another name would be
// followed in part only.
#include <algorithm>
#include <unordered_map>

#include <torchlora/config/targets.h>

#include "model/targets.h"

namespace torchlora {
namespace {

struct SecondName {
  std::string name, first;
  Module* module;
};

/// Collects the names of modules that have been met under another one.
class NameCollector {
 public:
  explicit NameCollector(Module& model) {
    visit(model, "");
  }
  std::vector<SecondName> result() && {
    return std::move(result_);
  }

 private:
  void visit(Module& parent, const std::string& prefix) {
    for (const auto& child : parent.named_children()) {
      const auto name = prefix + child.key();
      auto* module = child.value().get();
      add(*module, name);
      // A base layer has the name of its LoRA layer.
      while (const auto* layer = dynamic_cast<LoraLayer*>(module)) {
        module = layer->base_layer().get();
        add(*module, name);
      }
      visit(*module, name + ".");
    }
  }

  void add(Module& module, const std::string& name) {
    const auto& first = first_.emplace(&module, name).first->second;
    if (first != name) {
      result_.push_back({name, first, &module});
    }
  }

  std::unordered_map<Module*, std::string> first_;
  std::vector<SecondName> result_;
};

/// Whether the rows or parameters that a configuration lists are those of the
/// module by its second name only.
template <class Entry>
bool is_listed(
    const std::vector<Entry>& entries,
    const std::string& name,
    const std::string& first) {
  return std::ranges::any_of(entries, [&](const Entry& item) {
    const auto& entry = [&]() -> const std::string& {
      if constexpr (std::is_same_v<Entry, std::string>) {
        return item;
      } else {
        return item.first;
      }
    }();
    return names_module(entry, name) && !names_module(entry, first);
  });
}

bool lists_parameter(const LoraConfig& config, const SecondName& second) {
  for (const auto& item : second.module->named_parameters(/*recurse=*/false)) {
    const auto key = "." + item.key();
    if (is_listed(
            config.target_parameters(),
            second.name + key,
            second.first + key)) {
      return true;
    }
  }
  return false;
}

} // namespace

void check_second_names(
    Module& model,
    const LoraConfig& config,
    const std::vector<TargetSite>& adapted) {
  const auto names = NameCollector(model).result();
  if (names.empty()) {
    return;
  }
  const TargetMatcher matcher(config);
  const PatternTable ranks(config.rank_pattern());
  const PatternTable alphas(config.alpha_pattern());
  const auto& rows = config.trainable_token_indices();
  for (const auto& second : names) {
    const auto& [name, first, module] = second;
    const bool is_adapted =
        std::ranges::find(adapted, first, &TargetSite::name) != adapted.end();
    const auto differs = [&](const PatternTable& table) {
      return is_adapted && table.find(name) &&
          table.find(name) != table.find(first);
    };
    const auto match = matcher.match(name);
    const auto* field = match == TargetMatch::kTargeted && !is_adapted &&
            matcher.match(first) == TargetMatch::kNone
        ? "target_modules"
        : match == TargetMatch::kExcluded && is_adapted
        ? "exclude_modules or modules_to_save"
        : differs(ranks)                  ? "rank_pattern"
        : differs(alphas)                 ? "alpha_pattern"
        : lists_parameter(config, second) ? "target_parameters"
        : !rows.is_none() && !rows.is_list() &&
            is_listed(rows.by_module(), name, first)
        ? "trainable_token_indices"
        : nullptr;
    TORCH_CHECK_VALUE(
        !field,
        "[get_peft_model] ",
        field ? field : "",
        " means the module \"",
        name,
        "\", which is registered as \"",
        first,
        "\" too and adapted under that name only: name it so");
  }
}

} // namespace torchlora
