#pragma once

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <torchlora/config/lora_config.h>
#include <torchlora/error.h>

namespace torchlora::io {

/// Reads the values of an adapter_config.json, or of an object in it. Each
/// error is a DataError that names the file and the key.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& values, std::string file)
      : values_(values), file_(std::move(file)) {}

  /// Whether anybody asked for the key.
  bool was_read(const std::string& key) const {
    return read_.contains(key);
  }

  const nlohmann::json* find(const char* key) const {
    read_.insert(key);
    const auto found = values_.find(key);
    return found == values_.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void refuse(const char* key, const char* expected) const {
    TORCHLORA_CHECK_DATA(
        false,
        "[load_adapter_config] ",
        file_,
        ": ",
        key,
        " must be ",
        expected,
        ", found ",
        values_[key].dump());
  }

  template <class T>
  void read(const char* key, const char* expected, T& target) const {
    if (const auto* value = find(key)) {
      try {
        target = value->get<T>();
      } catch (const nlohmann::json::exception&) {
        refuse(key, expected);
      }
    }
  }

  void read(const char* key, double& target) const {
    if (const auto* value = find(key)) {
      if (!value->is_number()) {
        refuse(key, "a number");
      }
      target = value->get<double>();
    }
  }

  void read(const char* key, const char* /*expected*/, int64_t& target) const {
    double number = 0;
    if (find(key)) {
      read(key, number);
      if (number != std::floor(number) || std::abs(number) > 1e15) {
        refuse(key, "an integer");
      }
      target = static_cast<int64_t>(number);
    }
  }

  void read(const char* key, ModuleNames& target) const {
    const auto* value = find(key);
    if (value && value->is_string()) {
      target = value->get<std::string>();
    } else if (value) {
      std::vector<std::string> names;
      read(key, "a list of names, a regular expression or null", names);
      target = names;
    }
  }

  void read(const char* key, LoraConfig::Pattern& target) const {
    if (const auto* value = find(key)) {
      if (!value->is_object()) {
        refuse(key, "an object");
      }
      for (const auto& [pattern, number] : value->items()) {
        if (!number.is_number()) {
          refuse(key, "an object of numbers");
        }
        target.emplace_back(pattern, number.get<double>());
      }
    }
  }

  /// A list, or one element alone.
  template <class T>
  void read_list(const char* key, const char* expected, std::vector<T>& target)
      const {
    if (const auto* value = find(key); value && !value->is_array()) {
      T single{};
      read(key, expected, single);
      target = {single};
    } else {
      read(key, expected, target);
    }
  }

 private:
  const nlohmann::json& values_;
  std::string file_;
  mutable std::set<std::string> read_;
};

} // namespace torchlora::io
