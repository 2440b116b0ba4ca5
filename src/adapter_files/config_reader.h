#pragma once

#include <algorithm>
#include <cmath>
#include <set>

#include <nlohmann/json.hpp>

#include <torchlora/config/lora_config.h>
#include <torchlora/error.h>

namespace torchlora {

/// Reads the fields of an adapter_config.json, or of an object in it
/// (`config_fields.h`). A key that is missing or null leaves the field as it
/// is. DataError names the file, the key and what was expected.
class ConfigReader {
 public:
  /// Ordered, as the first pattern that matches wins.
  using Json = nlohmann::ordered_json;

  /// `where` begins every message.
  ConfigReader(const Json& values, std::string where)
      : values_(values), where_(std::move(where)) {}

  void operator()(const char* key, bool& target) {
    read(key, "true or false", target);
  }
  void operator()(const char* key, std::string& target) {
    read(key, "a string", target);
  }
  void operator()(const char* key, std::vector<std::string>& target) {
    read(key, "a list of names or null", target);
  }
  void operator()(const char* key, double& target) {
    if (const auto* value = find(key)) {
      check(value->is_number(), key, "a number");
      target = value->get<double>();
    }
  }
  void operator()(const char* key, int64_t& target) {
    if (const auto* value = find(key)) {
      check(value->is_number(), key, "a number");
      const auto number = value->get<double>();
      check(
          number == std::floor(number) && std::abs(number) < 1e15,
          key,
          "an integer");
      target = static_cast<int64_t>(number);
    }
  }
  void operator()(const char* key, InitLoraWeights& target) {
    if (const auto* value = find(key)) {
      check(
          value->is_boolean() || value->is_string(),
          key,
          "true, false or a name");
      target = value->is_boolean() ? InitLoraWeights(value->get<bool>())
                                   : value->get<std::string>();
    }
  }
  void operator()(const char* key, ModuleNames& target) {
    if (const auto* value = find(key)) {
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
      check(value->is_object(), key, "an object");
      for (const auto& [pattern, number] : value->items()) {
        check(number.is_number(), key, "an object of numbers");
        target.emplace_back(pattern, number.get<double>());
      }
    }
  }
  void operator()(const char* key, LoraConfig::LayerRanges& target) {
    if (const auto* value = find(key)) {
      const auto is_pair = [](const Json& entry) {
        return entry.size() == 2 && is_list(entry, &Json::is_number_integer);
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
    const auto* value = find(key);
    if (!value) {
      return;
    }
    const auto indices = [&](const Json& list) {
      check(
          is_list(list, &Json::is_number_integer),
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
    const auto* value = find(key);
    if (value && !value->is_array()) {
      target.resize(1);
      (*this)(key, target.front());
    } else {
      read(key, "a list, or one element of it", target);
    }
  }

  template <class Config, class Visit>
  void nested(
      const char* key,
      std::optional<Config>& target,
      const Visit& visit,
      const nlohmann::json& /*none*/ = {}) {
    const auto* value = find(key);
    if (!value || value->empty()) {
      return;
    }
    check(value->is_object(), key, "an object or null");
    ConfigReader reader(*value, where_ + key + ": ");
    visit(reader, target.emplace());
    for (const auto& [name, unknown] : reader.unknown()) {
      TORCH_WARN(where_, "the key ", key, ".", name, " is not known");
    }
  }

  void unsupported(const char* key, const Json& /*written*/) {
    const auto* value = find(key);
    TORCHLORA_CHECK_DATA(
        !value || *value == false,
        where_,
        key,
        " = ",
        value ? value->dump() : "",
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
  /// nullptr for a key that is missing or null.
  const Json* find(const char* key) {
    known_.insert(key);
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }

  void check(bool is_right, const char* key, const char* expected) const {
    TORCHLORA_CHECK_DATA(
        is_right,
        where_,
        key,
        " must be ",
        expected,
        ", found ",
        values_[key].dump());
  }

  static bool is_list(
      const Json& value,
      bool (Json::*is_right)() const noexcept) {
    return value.is_array() &&
        std::ranges::all_of(value, [&](const Json& element) {
             return (element.*is_right)();
           });
  }

  template <class T>
  void read(const char* key, const char* expected, T& target) {
    if (const auto* value = find(key)) {
      try {
        target = value->get<T>();
      } catch (const Json::exception&) {
        check(false, key, expected);
      }
    }
  }

  const Json& values_;
  std::string where_;
  std::set<std::string> known_;
};

} // namespace torchlora
