#pragma once

#include <memory>

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// The result of matching a module's name against a configuration: whether the
/// module is adapted.
enum class TargetMatch {
  /// No option of the configuration names the module.
  kNone,
  /// `target_modules` names the module: it is adapted.
  kTargeted,
  /// `exclude_modules` or `modules_to_save` names the module, which is then not
  /// adapted even if `target_modules` names it.
  kExcluded,
};

/// Which rules decide whether a configuration targets a module.
enum class TargetRules {
  /// PEFT's rules, but an `exclude_modules` entry also excludes every module
  /// inside a module of that name.
  kTorchlora,
  /// The rules of PEFT 0.21.2.
  kPeft,
};

/// Decides from a module's dotted name whether a configuration targets the
/// module. PEFT's `check_target_module_exists`. The caller replaces
/// "all-linear" by names first. Regular expressions have Python's syntax.
class TORCHLORA_API TargetMatcher {
 public:
  /// Compiles the patterns of `config`. ValueError if the configuration is not
  /// valid or a pattern does not compile.
  explicit TargetMatcher(
      const LoraConfig& config,
      TargetRules rules = TargetRules::kTorchlora);
  ~TargetMatcher();
  TargetMatcher(TargetMatcher&&) noexcept;
  TargetMatcher& operator=(TargetMatcher&&) noexcept;

  /// Returns whether the module of this name is targeted, excluded, or neither.
  TargetMatch match(const std::string& module_name) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Returns whether `entry` equals `module_name` or equals the end of it after a
/// dot ("fc" names "block.fc").
TORCHLORA_API bool names_module(
    const std::string& entry,
    const std::string& module_name);

/// A compiled `rank_pattern` or `alpha_pattern`: pairs of a regular expression
/// and a value. `find` returns the value of the first pattern that matches a
/// module's whole name or the end of it after a dot.
class TORCHLORA_API PatternTable {
 public:
  /// Compiles the patterns. ValueError for a pattern that does not compile.
  explicit PatternTable(const LoraConfig::Pattern& pattern);
  ~PatternTable();
  PatternTable(PatternTable&&) noexcept;
  PatternTable& operator=(PatternTable&&) noexcept;

  /// Returns the value for the module of this name, or nullopt if no pattern
  /// matches.
  std::optional<double> find(const std::string& module_name) const;
  /// Returns the patterns that match none of `module_names`, so that the caller
  /// can warn about them.
  std::vector<std::string> unused(
      const std::vector<std::string>& module_names) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Returns the default `target_modules` for a model of this `model_type` (such
/// as "llama"): PEFT's, and q_proj and v_proj for "gemma4_text", for which PEFT
/// has none. Nothing for any other type.
TORCHLORA_API ModuleNames default_target_modules(const std::string& model_type);

} // namespace torchlora
