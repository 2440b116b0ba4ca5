#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <torchlora/export.h>

namespace torchlora {

/// Names of modules, a regular expression, or nothing: PEFT's `list[str] | str
/// | None`. A name in a list matches a module of that name and a module whose
/// name ends with it after a dot. The expression has Python's syntax and must
/// match the whole name. As `target_modules` the string "all-linear" means
/// every linear layer except the output head.
class TORCHLORA_API ModuleNames {
 public:
  /// Makes the value "nothing".
  ModuleNames() = default;
  /// @{
  /// Stores a regular expression, or "all-linear".
  ModuleNames(const char* regex) : value_(std::string(regex)) {}
  ModuleNames(std::string regex) : value_(std::move(regex)) {}
  /// @}

  /// @{
  /// Stores a list of names.
  ModuleNames(std::vector<std::string> names) : value_(std::move(names)) {}
  ModuleNames(std::initializer_list<std::string> names)
      : value_(std::vector<std::string>(names)) {}
  /// @}

  /// @{
  /// Return whether the value is nothing, a regular expression, or a list of
  /// names.
  bool is_none() const {
    return std::holds_alternative<std::monostate>(value_);
  }
  bool is_regex() const {
    return std::holds_alternative<std::string>(value_);
  }
  bool is_list() const {
    return std::holds_alternative<std::vector<std::string>>(value_);
  }
  /// @}

  /// @{
  /// Return the stored regular expression, or the stored list.
  /// `std::bad_variant_access` if the value is of another kind.
  const std::string& regex() const {
    return std::get<std::string>(value_);
  }
  const std::vector<std::string>& list() const {
    return std::get<std::vector<std::string>>(value_);
  }
  /// @}

  /// Returns whether the value is the string "all-linear" in upper or lower
  /// case.
  bool is_all_linear() const;

  friend bool operator==(const ModuleNames&, const ModuleNames&) = default;

 private:
  std::variant<std::monostate, std::string, std::vector<std::string>> value_;
};

/// The rows of tables that an adapter trains: a list of rows of the model's
/// input embeddings, lists of rows by module name, or nothing. PEFT's
/// `list[int] | dict[str, list[int]] | None`. A name is a module's name or the
/// end of it after a dot.
///
///     config.trainable_token_indices({1, 5, 9});
///     config.trainable_token_indices({{"embed_tokens", {1, 5, 9}}});
class TORCHLORA_API TrainableTokenIndices {
 public:
  /// Indices of rows.
  using Indices = std::vector<int64_t>;
  /// Names of modules, each with the indices of its rows.
  using ByModule = std::vector<std::pair<std::string, Indices>>;

  /// Makes the value "nothing".
  TrainableTokenIndices() = default;
  /// @{
  /// Stores rows of the input embeddings, or rows by module name.
  TrainableTokenIndices(Indices indices) : value_(std::move(indices)) {}
  TrainableTokenIndices(ByModule modules) : value_(std::move(modules)) {}
  TrainableTokenIndices(std::initializer_list<int64_t> indices)
      : value_(Indices(indices)) {}
  TrainableTokenIndices(std::initializer_list<ByModule::value_type> modules)
      : value_(ByModule(modules)) {}
  /// @}

  /// Returns whether the value is nothing or an empty list of modules.
  bool is_none() const {
    return std::holds_alternative<std::monostate>(value_) ||
        (!is_list() && by_module().empty());
  }
  /// Returns whether the value is a list of rows of the input embeddings.
  bool is_list() const {
    return std::holds_alternative<Indices>(value_);
  }
  /// @{
  /// Return the rows of the input embeddings, or the rows by module name.
  /// `std::bad_variant_access` if the value is of another kind.
  const Indices& list() const {
    return std::get<Indices>(value_);
  }
  const ByModule& by_module() const {
    return std::get<ByModule>(value_);
  }
  /// @}

  friend bool operator==(
      const TrainableTokenIndices&,
      const TrainableTokenIndices&) = default;

 private:
  std::variant<std::monostate, Indices, ByModule> value_;
};

} // namespace torchlora
