#pragma once

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/io/safetensors.h>
#include <torchlora/models/gemma4/model.h>

#include "device/device.h"

namespace torchlora::gemma4 {

inline const std::filesystem::path kTestData = TORCHLORA_TEST_DATA;
inline const std::filesystem::path kTiny = kTestData / "tiny";

inline nlohmann::json read_json(const std::filesystem::path& path) {
  nlohmann::json json;
  std::ifstream(path) >> json;
  return json;
}

inline void write_json(
    const std::filesystem::path& path,
    const nlohmann::json& json) {
  std::ofstream(path) << json;
}

inline NamedTensors read_tensors(const std::filesystem::path& path) {
  const io::SafetensorsFile file(path);
  NamedTensors tensors;
  for (const auto& key : file.keys()) {
    tensors.emplace_back(key, file.tensor(key));
  }
  return tensors;
}

/// The model of a checkpoint, on the device of the tests.
inline Gemma4ForCausalLM load_checkpoint(
    const std::filesystem::path& folder,
    LoadOptions options = {}) {
  options.device = test::test_device();
  return from_pretrained(folder, options);
}

/// An empty folder of the running test.
inline std::filesystem::path make_folder(const std::string& name) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  auto suite = std::string(test->test_suite_name()) + "." + test->name();
  std::replace(suite.begin(), suite.end(), '/', '_');
  const auto folder =
      std::filesystem::path(testing::TempDir()) / "torchlora" / suite / name;
  std::filesystem::remove_all(folder);
  std::filesystem::create_directories(folder);
  return folder;
}

/// The message of the `Error` that `run` throws.
template <class Error>
std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what_without_backtrace();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

} // namespace torchlora::gemma4
