#pragma once

#include <string>

#include <c10/util/Exception.h>

#include <torchlora/error.h>

namespace torchlora {

/// Returns the text of an error without the name of a function in brackets that
/// it begins with. The name of an option ("[target_parameters]") stays.
inline std::string without_function(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  const auto end = text.find("] ");
  if (!text.starts_with("[") || end == std::string::npos) {
    return text;
  }
  const auto name = text.substr(1, end - 1);
  const bool is_option = name == "modules_to_save" ||
      name == "target_modules" || name == "target_parameters" ||
      name == "trainable_token_indices" || name == "layer_replication" ||
      name == "LoraConfig";
  return is_option ? text : text.substr(end + 2);
}

/// Runs a part of the public function `function` that other functions have too.
/// Its ValueErrors and DataErrors name `function`, which is what the user
/// called.
template <class Part>
auto in_function(const char* function, const Part& part) {
  try {
    return part();
  } catch (const c10::ValueError& e) {
    const auto text = without_function(e);
    TORCH_CHECK_VALUE(
        text == e.what_without_backtrace(), "[", function, "] ", text);
    throw;
  } catch (const DataError& e) {
    const auto text = without_function(e);
    TORCHLORA_CHECK_DATA(
        text == e.what_without_backtrace(), "[", function, "] ", text);
    throw;
  }
}

} // namespace torchlora
