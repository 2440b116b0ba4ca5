#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <torchlora/export.h>

namespace torchlora {

/// Names of modules, a regular expression, or nothing: PEFT's
/// `list[str] | str | None`. A name matches a module of that name and one whose
/// name ends with it behind a dot. The expression has Python's syntax and must
/// match the whole name. As `target_modules` the string "all-linear" means
/// every linear layer but the output head.
class TORCHLORA_API ModuleNames {
 public:
  /// Nothing.
  ModuleNames() = default;
  /// @{
  /// A regular expression, or "all-linear".
  ModuleNames(const char* regex) : value_(std::string(regex)) {}
  ModuleNames(std::string regex) : value_(std::move(regex)) {}
  /// @}

  /// @{
  /// A list of names.
  ModuleNames(std::vector<std::string> names) : value_(std::move(names)) {}
  ModuleNames(std::initializer_list<std::string> names)
      : value_(std::vector<std::string>(names)) {}
  /// @}

  /// @{
  /// Which of the three it is.
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
  /// The value. `std::bad_variant_access` if it is of another kind.
  const std::string& regex() const {
    return std::get<std::string>(value_);
  }
  const std::vector<std::string>& list() const {
    return std::get<std::vector<std::string>>(value_);
  }
  /// @}

  /// Whether it is "all-linear", in any case.
  bool is_all_linear() const;

  friend bool operator==(const ModuleNames&, const ModuleNames&) = default;

 private:
  std::variant<std::monostate, std::string, std::vector<std::string>> value_;
};

/// Rows of embedding tables: of the model's input embeddings, of modules by
/// name, or none. PEFT's `list[int] | dict[str, list[int]] | None`. A name is
/// a module's, or the end of it behind a dot.
///
///     config.trainable_token_indices({1, 5, 9});
///     config.trainable_token_indices({{"embed_tokens", {1, 5, 9}}});
class TORCHLORA_API TrainableTokenIndices {
 public:
  using Indices = std::vector<int64_t>;
  using ByModule = std::vector<std::pair<std::string, Indices>>;

  /// Nothing.
  TrainableTokenIndices() = default;
  /// @{
  /// Rows of the input embeddings, or by module.
  TrainableTokenIndices(Indices indices) : value_(std::move(indices)) {}
  TrainableTokenIndices(ByModule modules) : value_(std::move(modules)) {}
  TrainableTokenIndices(std::initializer_list<int64_t> indices)
      : value_(Indices(indices)) {}
  TrainableTokenIndices(std::initializer_list<ByModule::value_type> modules)
      : value_(ByModule(modules)) {}
  /// @}

  /// Whether there is nothing, or no module.
  bool is_none() const {
    return std::holds_alternative<std::monostate>(value_) ||
        (!is_list() && by_module().empty());
  }
  /// Whether the rows are those of the input embeddings.
  bool is_list() const {
    return std::holds_alternative<Indices>(value_);
  }
  /// @{
  /// The value. `std::bad_variant_access` if it is of another kind.
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
