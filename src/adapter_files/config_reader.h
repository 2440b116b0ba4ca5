#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <type_traits>

#include <nlohmann/json.hpp>

#include <torchlora/config/lora_config.h>
#include <torchlora/error.h>

#include "io/parse_json.h"

namespace torchlora {

/// Reads the fields of an adapter_config.json, or of an object in it
/// (`config_fields.h`). A key that is missing leaves the field as it is. Null
/// is what None is in PEFT: false, unset, or, for a number, a pattern or the
/// name of a choice, an error. DataError names the file, the key and what was
/// expected.
class ConfigReader {
 public:
  /// Ordered, as the first pattern that matches wins.
  using Json = nlohmann::ordered_json;

  /// `where` begins every message.
  ConfigReader(const Json& values, std::string where)
      : values_(values), where_(std::move(where)) {}

  void operator()(const char* key, bool& target) {
    if (const auto* value = find(key)) {
      check(value->is_boolean() || value->is_null(), key, "true or false");
      target = *value == true; // None is false in Python
    }
  }
  void operator()(const char* key, std::string& target) {
    // An option that is unset by default may be null.
    const auto* value = target.empty() ? find_set(key) : find(key);
    if (value) {
      check(value->is_string(), key, "a string");
      target = value->get<std::string>();
    }
  }
  void operator()(const char* key, std::vector<std::string>& target) {
    if (const auto* value = find_set(key)) {
      check(is_list(*value, &Json::is_string), key, "a list of names or null");
      target = value->get<std::vector<std::string>>();
    }
  }
  void operator()(const char* key, double& target) {
    if (const auto* value = find(key)) {
      check(value->is_number(), key, "a number");
      target = value->get<double>();
    }
  }
  void operator()(const char* key, int64_t& target) {
    if (const auto* value = find(key)) {
      check(is_integer(*value), key, "an integer");
      target = value->get<int64_t>();
    }
  }
  void operator()(const char* key, InitLoraWeights& target) {
    if (const auto* value = find(key)) {
      check(
          value->is_boolean() || value->is_string() || value->is_null(),
          key,
          "true, false or a name");
      target = value->is_string() ? InitLoraWeights(value->get<std::string>())
                                  : InitLoraWeights(*value == true);
    }
  }
  void operator()(const char* key, ModuleNames& target) {
    if (const auto* value = find_set(key)) {
      check(
          value->is_string() || is_list(*value, &Json::is_string),
          key,
          "a list of names, a regular expression or null");
      target = value->is_string()
          ? ModuleNames(value->get<std::string>())
          : ModuleNames(value->get<std::vector<std::string>>());
    }
  }
  void operator()(const char* key, LoraConfig::Pattern& target) {
    if (const auto* value = find(key)) {
      check(value->is_object(), key, "an object of numbers");
      for (const auto& [pattern, number] : value->items()) {
        check(number.is_number(), key, "an object of numbers");
        target.emplace_back(pattern, number.get<double>());
      }
    }
  }
  void operator()(const char* key, LoraConfig::LayerRanges& target) {
    if (const auto* value = find_set(key)) {
      const auto is_pair = [](const Json& entry) {
        return entry.size() == 2 && is_list_of_integers(entry);
      };
      check(
          value->is_array() && std::ranges::all_of(*value, is_pair),
          key,
          "a list of pairs of layer numbers");
      target = value->get<LoraConfig::LayerRanges>();
    }
  }
  void operator()(const char* key, TrainableTokenIndices& target) {
    using Indices = TrainableTokenIndices::Indices;
    const auto* value = find_set(key);
    if (!value) {
      return;
    }
    const auto indices = [&](const Json& list) {
      check(
          is_list_of_integers(list),
          key,
          "a list of integers, or an object of such lists");
      return list.get<Indices>();
    };
    if (!value->is_object()) {
      target = indices(*value);
      return;
    }
    TrainableTokenIndices::ByModule modules;
    for (const auto& [name, list] : value->items()) {
      modules.emplace_back(name, indices(list));
    }
    target = std::move(modules);
  }

  void number(const char* key, double& target) {
    (*this)(key, target);
  }

  template <class T>
  void list(const char* key, std::vector<T>& target) {
    const auto* value = find_set(key);
    if (!value) {
      return;
    }
    const auto list = value->is_array() ? *value : Json::array({*value});
    constexpr bool is_names = std::is_same_v<T, std::string>;
    check(
        is_names ? is_list(list, &Json::is_string) : is_list_of_integers(list),
        key,
        is_names ? "a name, a list of names or null"
                 : "an integer, a list of integers or null");
    target = list.template get<std::vector<T>>();
  }

  template <class Config, class Visit>
  void nested(
      const char* key,
      std::optional<Config>& target,
      const Visit& visit,
      const nlohmann::json& /*none*/ = {}) {
    const auto* value = find_set(key);
    if (!value) {
      return;
    }
    check(value->is_object(), key, "an object or null");
    if (value->empty()) {
      return;
    }
    ConfigReader reader(*value, where_ + key + ": ");
    visit(reader, target.emplace());
    for (const auto& [name, unknown] : reader.unknown()) {
      TORCH_WARN(where_, "the key ", key, ".", name, " is not known");
    }
  }

  void unsupported(const char* key, const Json& /*written*/) {
    const auto* value = find_set(key);
    TORCHLORA_CHECK_DATA(
        !value || *value == false,
        where_,
        key,
        " = ",
        value ? io::json_text(*value) : "",
        " asks for a feature that torchlora does not support");
  }
  void constant(const char* key, const Json& /*written*/) {
    find(key);
  }
  void ignored(const char* key) {
    find(key);
  }

  /// The keys that nothing asked for, with their JSON.
  LoraConfig::UnknownKeys unknown() const {
    LoraConfig::UnknownKeys result;
    for (const auto& [key, value] : values_.items()) {
      if (!known_.contains(key)) {
        result.emplace_back(key, value.dump());
      }
    }
    return result;
  }

 private:
  /// nullptr for a key that is missing.
  const Json* find(const char* key) {
    known_.insert(key);
    const auto found = values_.find(key);
    return found == values_.end() ? nullptr : &*found;
  }
  /// nullptr for a key that is missing or null.
  const Json* find_set(const char* key) {
    const auto* value = find(key);
    return value && !value->is_null() ? value : nullptr;
  }

  void check(bool is_right, const char* key, const char* expected) const {
    TORCHLORA_CHECK_DATA(
        is_right,
        where_,
        key,
        " must be ",
        expected,
        ", found ",
        io::json_text(values_[key]));
  }

  static bool is_list(
      const Json& value,
      bool (Json::*is_right)() const noexcept) {
    return value.is_array() &&
        std::ranges::all_of(value, [&](const Json& element) {
             return (element.*is_right)();
           });
  }

  static bool is_integer(const Json& value) {
    return value.is_number_integer() && std::abs(value.get<double>()) < 1e15;
  }

  static bool is_list_of_integers(const Json& value) {
    return is_list(value, &Json::is_number_integer) &&
        std::ranges::all_of(value, is_integer);
  }

  const Json& values_;
  std::string where_;
  std::set<std::string> known_;
};

} // namespace torchlora
