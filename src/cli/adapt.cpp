#include "cli/adapt.h"

#include <algorithm>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <torchlora/config/targets.h>

#include "cli/progress.h"

namespace torchlora::cli {
namespace {

bool is_below(const std::string& name, const std::string& ancestor) {
  return name.size() > ancestor.size() && name.starts_with(ancestor) &&
      name[ancestor.size()] == '.';
}

std::string last_part(const std::string& name) {
  return name.substr(name.rfind('.') + 1);
}

bool matches(const TargetMatcher& matcher, const std::string& name) {
  return matcher.match(name) == TargetMatch::kTargeted;
}

/// Returns whether `target_modules` selects `module`, which text never reaches.
/// A regular expression does if it matches. An entry of a list does if the
/// language model, which is loaded, has no module of that name.
bool asks_for(
    const LoraConfig& config,
    const std::string& module,
    const Module& model) {
  if (config.target_modules().is_none() ||
      config.target_modules().is_all_linear() ||
      !matches(TargetMatcher(config), module)) {
    return false;
  }
  if (config.target_modules().is_regex()) {
    return true;
  }
  const auto& entries = config.target_modules().list();
  const auto loaded = model.named_modules("", /*include_self=*/false);
  return std::any_of(entries.begin(), entries.end(), [&](const auto& entry) {
    return names_module(entry, module) &&
        std::none_of(loaded.begin(), loaded.end(), [&](const auto& item) {
             return names_module(entry, item.key());
           });
  });
}

} // namespace

std::vector<std::string> left_aside(const nn::PretrainedModel& model) {
  const std::vector<std::string> all = model.unloaded_modules();
  std::vector<std::string> tops;
  std::copy_if(
      all.begin(), all.end(), std::back_inserter(tops), [&](const auto& name) {
        return std::none_of(all.begin(), all.end(), [&](const auto& other) {
          return is_below(name, other);
        });
      });
  return tops;
}

PeftModel adapt(gemma4::Gemma4ForCausalLM& model, const LoraConfig& config) {
  const std::vector<std::string> unloaded = model->unloaded_modules();
  const auto asked = std::find_if(
      unloaded.begin(), unloaded.end(), [&](const std::string& name) {
        return asks_for(config, name, *model);
      });
  if (asked != unloaded.end()) {
    std::vector<std::string> towers = left_aside(*model);
    std::transform(towers.begin(), towers.end(), towers.begin(), last_part);
    TORCH_CHECK_VALUE(
        false,
        "--lora_target_modules asks for ",
        *asked,
        ", which text data never reaches: its adapter would stay as it is; "
        "name modules of the language model, or add --exclude_modules ",
        fmt::format("{}", fmt::join(towers, " ")));
  }
  Progress progress("layer");
  const auto report = [&](size_t done, size_t total, const std::string& name) {
    progress.activity("initializing " + name);
    progress.step(static_cast<int64_t>(done), static_cast<int64_t>(total));
  };
  return get_peft_model(
      *model, config, "default", InjectOptions().init_progress(report));
}

} // namespace torchlora::cli
