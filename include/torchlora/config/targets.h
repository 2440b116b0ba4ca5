#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <torchlora/config/lora_config.h>
#include <torchlora/export.h>

namespace torchlora {

/// What the rules say of a module.
enum class TargetMatch {
  /// No target.
  kNone,
  /// A target.
  kTargeted,
  /// Left out by `exclude_modules`.
  kExcluded,
};

/// Whose rules decide.
enum class TargetRules {
  /// PEFT's, but an `exclude_modules` entry also excludes everything below a
  /// module of that name.
  kTorchlora,
  /// Exactly those of PEFT 0.21.2.
  kPeft,
};

/// Which modules a configuration targets, by their dotted names: PEFT's
/// `check_target_module_exists`. "all-linear" must have been resolved to
/// names before. Regular expressions have Python's syntax.
class TORCHLORA_API TargetMatcher {
 public:
  /// ValueError for a pattern that does not compile and for fields that
  /// exclude each other.
  explicit TargetMatcher(
      const LoraConfig& config,
      TargetRules rules = TargetRules::kTorchlora);
  ~TargetMatcher();
  /// @{
  /// Movable.
  TargetMatcher(TargetMatcher&&) noexcept;
  TargetMatcher& operator=(TargetMatcher&&) noexcept;
  /// @}

  /// Of a module by its dotted name.
  TargetMatch match(const std::string& module_name) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// Whether `entry` is `module_name` or its end behind a dot.
TORCHLORA_API bool names_module(
    const std::string& entry,
    const std::string& module_name);

/// `rank_pattern` or `alpha_pattern`: the value of the first pattern that
/// matches the end of a module name behind a dot.
class TORCHLORA_API PatternTable {
 public:
  /// ValueError for a pattern that does not compile.
  explicit PatternTable(const LoraConfig::Pattern& pattern);
  ~PatternTable();
  /// @{
  /// Movable.
  PatternTable(PatternTable&&) noexcept;
  PatternTable& operator=(PatternTable&&) noexcept;
  /// @}

  /// None if no pattern matches.
  std::optional<double> find(const std::string& module_name) const;
  /// The patterns that match none of `module_names`.
  std::vector<std::string> unused(
      const std::vector<std::string>& module_names) const;

 private:
  struct Impl;
  std::unique_ptr<const Impl> impl_;
};

/// PEFT's default `target_modules` for a `model_type`; none if it has none.
TORCHLORA_API ModuleNames default_target_modules(const std::string& model_type);

} // namespace torchlora
