#pragma once

#include <cmath>

#include <nlohmann/json.hpp>

#include <torchlora/config/lora_config.h>
#include <torchlora/init/initializer.h>

namespace torchlora {

/// Writes the fields of an adapter_config.json (`config_fields.h`). What is
/// empty is written as null.
class ConfigWriter {
 public:
  using Json = nlohmann::json;

  template <class T>
  void operator()(const char* key, const T& value) {
    values_[key] = json(value);
  }
  void number(const char* key, double value) {
    values_[key] = whole(value);
  }
  template <class T>
  void list(const char* key, const std::vector<T>& value) {
    (*this)(key, value);
  }
  template <class Config, class Visit>
  void nested(
      const char* key,
      const std::optional<Config>& value,
      const Visit& visit,
      const Json& none = {}) {
    values_[key] = none;
    if (value) {
      ConfigWriter writer;
      visit(writer, *value);
      values_[key] = std::move(writer.values_);
    }
  }
  void unsupported(const char* key, const Json& written) {
    values_[key] = written;
  }
  void constant(const char* key, const Json& written) {
    values_[key] = written;
  }
  void ignored(const char* /*key*/) {}

  Json& values() {
    return values_;
  }

 private:
  static Json json(bool value) {
    return value;
  }
  static Json json(int64_t value) {
    return value;
  }
  static Json json(double value) {
    return value;
  }
  static Json json(const std::string& value) {
    return value.empty() ? Json() : Json(value);
  }
  template <class T>
  static Json json(const std::vector<T>& value) {
    return value.empty() ? Json() : Json(value);
  }
  /// PEFT raises on a name that it does not know.
  static Json json(const InitLoraWeights& value) {
    return value.is_name() && !init::is_unknown_to_peft(value)
        ? Json(value.name())
        : value.is_name() ? Json(true)
                          : Json(value.flag());
  }
  static Json json(const ModuleNames& value) {
    return value.is_none() ? Json()
        : value.is_regex() ? Json(value.regex())
                           : Json(value.list());
  }
  static Json json(const LoraConfig::Pattern& value) {
    auto object = Json::object();
    for (const auto& [key, number] : value) {
      object[key] = whole(number);
    }
    return object;
  }
  static Json json(const TrainableTokenIndices& value) {
    if (value.is_none()) {
      return {};
    }
    if (value.is_list()) {
      return value.list();
    }
    auto object = Json::object();
    for (const auto& [name, indices] : value.by_module()) {
      object[name] = indices;
    }
    return object;
  }
  /// An integer if the number is one.
  static Json whole(double value) {
    return value == std::floor(value) && std::abs(value) < 1e15
        ? Json(static_cast<int64_t>(value))
        : Json(value);
  }

  Json values_ = Json::object();
};

} // namespace torchlora
