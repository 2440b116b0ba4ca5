#include <torchlora/config/targets.h>

#include <algorithm>

#include <fmt/format.h>

#include "config/python_regex.h"

namespace torchlora {
namespace {

/// Whether `entry` names the module or one that it is inside of.
bool names_ancestor(const std::string& entry, const std::string& module_name) {
  return ("." + module_name + ".").find("." + entry + ".") != std::string::npos;
}

/// Returns expressions whose group `idx` is the index of the layer that a
/// module belongs to. The first one that matches counts.
std::vector<PythonRegex> layer_index_patterns(
    const std::vector<std::string>& layers_pattern) {
  if (layers_pattern.empty()) {
    // NOTE: lazy, so that it is the layer's index and not an expert's.
    return {PythonRegex(R"(.*?\.[^.]*\.(?P<idx>\d+)\.)")};
  }
  std::vector<PythonRegex> result;
  for (const auto& pattern : layers_pattern) {
    result.emplace_back(
        fmt::format(R"((?:^|.*?\.){}\.(?P<idx>\d+)\.)", pattern));
  }
  return result;
}

} // namespace

bool names_module(const std::string& entry, const std::string& module_name) {
  return module_name == entry ||
      (module_name.size() > entry.size() && module_name.ends_with(entry) &&
       module_name[module_name.size() - entry.size() - 1] == '.');
}

struct TargetMatcher::Impl {
  ModuleNames target_modules, exclude_modules;
  std::vector<std::string> modules_to_save;
  std::vector<int64_t> layers_to_transform;
  TargetRules rules;
  std::optional<PythonRegex> target_regex, exclude_regex;
  std::vector<PythonRegex> layer_index;

  bool excluded(const std::string& name) const {
    if (std::any_of(
            modules_to_save.begin(),
            modules_to_save.end(),
            [&](const auto& entry) { return names_ancestor(entry, name); })) {
      return true;
    }
    if (exclude_regex) {
      return exclude_regex->fullmatch(name);
    }
    if (!exclude_modules.is_list()) {
      return false;
    }
    const auto& entries = exclude_modules.list();
    return std::any_of(entries.begin(), entries.end(), [&](const auto& entry) {
      return rules == TargetRules::kPeft ? names_module(entry, name)
                                         : names_ancestor(entry, name);
    });
  }

  bool in_chosen_layer(const std::string& name) const {
    for (const auto& regex : layer_index) {
      if (auto index = regex.match_group(name, "idx")) {
        index->erase(
            0, std::min(index->find_first_not_of('0'), index->size() - 1));
        return std::any_of(
            layers_to_transform.begin(),
            layers_to_transform.end(),
            [&](int64_t layer) { return std::to_string(layer) == *index; });
      }
    }
    return false;
  }

  bool targeted(const std::string& name) const {
    if (target_regex) {
      return target_regex->fullmatch(name);
    }
    if (!target_modules.is_list()) {
      return false;
    }
    const auto& entries = target_modules.list();
    // A full name counts in every layer.
    if (std::find(entries.begin(), entries.end(), name) != entries.end()) {
      return true;
    }
    return std::any_of(
               entries.begin(),
               entries.end(),
               [&](const auto& entry) { return names_module(entry, name); }) &&
        (layers_to_transform.empty() || in_chosen_layer(name));
  }
};

TargetMatcher::TargetMatcher(const LoraConfig& config, TargetRules rules) {
  config.validate();
  const auto& targets = config.target_modules();
  auto impl = std::make_unique<Impl>();
  impl->target_modules = targets;
  impl->exclude_modules = config.exclude_modules();
  impl->modules_to_save = config.modules_to_save();
  impl->layers_to_transform = config.layers_to_transform();
  impl->rules = rules;
  if (targets.is_regex()) {
    impl->target_regex.emplace(targets.regex());
  }
  if (config.exclude_modules().is_regex() &&
      !config.exclude_modules().regex().empty()) {
    impl->exclude_regex.emplace(config.exclude_modules().regex());
  }
  impl->layer_index = layer_index_patterns(config.layers_pattern());
  impl_ = std::move(impl);
}

TargetMatcher::~TargetMatcher() = default;
TargetMatcher::TargetMatcher(TargetMatcher&&) noexcept = default;
TargetMatcher& TargetMatcher::operator=(TargetMatcher&&) noexcept = default;

TargetMatch TargetMatcher::match(const std::string& module_name) const {
  if (impl_->excluded(module_name)) {
    return TargetMatch::kExcluded;
  }
  return impl_->targeted(module_name) ? TargetMatch::kTargeted
                                      : TargetMatch::kNone;
}

struct PatternTable::Impl {
  struct Entry {
    std::string pattern;
    PythonRegex regex;
    double value;
  };
  std::vector<Entry> entries;
};

PatternTable::PatternTable(const LoraConfig::Pattern& pattern) {
  auto impl = std::make_unique<Impl>();
  for (const auto& [key, value] : pattern) {
    impl->entries.push_back(
        {key, PythonRegex(fmt::format(R"((.*\.)?({})$)", key)), value});
  }
  impl_ = std::move(impl);
}

PatternTable::~PatternTable() = default;
PatternTable::PatternTable(PatternTable&&) noexcept = default;
PatternTable& PatternTable::operator=(PatternTable&&) noexcept = default;

std::optional<double> PatternTable::find(const std::string& module_name) const {
  for (const auto& entry : impl_->entries) {
    if (entry.regex.match(module_name)) {
      return entry.value;
    }
  }
  return std::nullopt;
}

std::vector<std::string> PatternTable::unused(
    const std::vector<std::string>& module_names) const {
  std::vector<std::string> result;
  for (const auto& entry : impl_->entries) {
    if (std::none_of(
            module_names.begin(), module_names.end(), [&](const auto& name) {
              return entry.regex.match(name);
            })) {
      result.push_back(entry.pattern);
    }
  }
  return result;
}

} // namespace torchlora
