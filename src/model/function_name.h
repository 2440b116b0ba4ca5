#pragma once

#include <string>

#include <c10/util/Exception.h>

#include <torchlora/error.h>

namespace torchlora {

/// Returns the text of an error without the name of a function in brackets that
/// it begins with. The name of an option ("[target_parameters]") stays.
inline std::string without_function(const c10::Error& error) {
  const std::string text = error.what_without_backtrace();
  for (const char* function :
       {"add_adapter",
        "get_peft_model",
        "load_adapter",
        "LoraLayer",
        "merge",
        "merge_adapter",
        "PeftModel",
        "unmerge",
        "update_layer"}) {
    if (const auto name = "[" + std::string(function) + "] ";
        text.starts_with(name)) {
      return text.substr(name.size());
    }
  }
  return text;
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
