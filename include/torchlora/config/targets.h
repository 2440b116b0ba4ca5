#pragma once

#include <memory>

#include <torchlora/config/lora_config.h>

namespace torchlora {

/// What a configuration does with a module.
enum class TargetMatch {
  kNone,
  kTargeted,
  /// Left out by `exclude_modules` or `modules_to_save`.
  kExcluded,
};

/// The rules by which a configuration chooses modules.
enum class TargetRules {
  /// PEFT's, except that an `exclude_modules` entry also excludes everything
  /// below a module of that name.
  kTorchlora,
  /// Those of PEFT 0.21.2.
  kPeft,
};

/// Decides which modules a configuration targets, by their dotted names. PEFT's
/// `check_target_module_exists`. The caller resolves "all-linear" to names
/// first. Regular expressions have Python's syntax.
class TORCHLORA_API TargetMatcher {
 public:
  /// ValueError for a configuration that is not valid and for a pattern that
  /// does not compile.
  explicit TargetMatcher(
      const LoraConfig& config,
      TargetRules rules = TargetRules::kTorchlora);
  ~TargetMatcher();
  TargetMatcher(TargetMatcher&&) noexcept;
  TargetMatcher& operator=(TargetMatcher&&) noexcept;

  TargetMatch match(const std::string& module_name) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Whether `entry` is `module_name`, or the end of it behind a dot.
TORCHLORA_API bool names_module(
    const std::string& entry,
    const std::string& module_name);

/// Looks a module up in `rank_pattern` or `alpha_pattern`. The first pattern
/// that matches the end of its name behind a dot gives the value.
class TORCHLORA_API PatternTable {
 public:
  /// ValueError for a pattern that does not compile.
  explicit PatternTable(const LoraConfig::Pattern& pattern);
  ~PatternTable();
  PatternTable(PatternTable&&) noexcept;
  PatternTable& operator=(PatternTable&&) noexcept;

  /// Returns the value for a module, or none if no pattern matches.
  std::optional<double> find(const std::string& module_name) const;
  /// Returns the patterns that match none of `module_names`.
  std::vector<std::string> unused(
      const std::vector<std::string>& module_names) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Returns PEFT's default `target_modules` for a `model_type`; none if it has
/// none.
TORCHLORA_API ModuleNames default_target_modules(const std::string& model_type);

} // namespace torchlora
