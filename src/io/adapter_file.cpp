#include "io/adapter_file.h"

#include <torch/serialize.h>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>

namespace torchlora::io {
namespace {

AdapterFile read_pickle(const std::filesystem::path& path) {
  const auto bytes = read_file(path);
  AdapterFile file{path, {}};
  try {
    const auto value = torch::pickle_load({bytes.begin(), bytes.end()});
    for (const auto& item : value.toGenericDict()) {
      file.tensors.emplace(
          item.key().toStringRef(), item.value().toTensor().contiguous());
    }
  } catch (const c10::Error& error) {
    TORCHLORA_CHECK_DATA(
        false,
        "[load_adapter] ",
        path.string(),
        " is not a dictionary of tensors that torch.save wrote: ",
        error.what_without_backtrace());
  }
  return file;
}

} // namespace

AdapterFile read_adapter_file(const std::filesystem::path& directory) {
  const auto path = directory / "adapter_model.safetensors";
  const auto pickle = directory / "adapter_model.bin";
  std::error_code error;
  if (!std::filesystem::exists(path, error) &&
      std::filesystem::exists(pickle, error)) {
    return read_pickle(pickle);
  }
  const SafetensorsFile mapped(path);
  AdapterFile file{path, {}};
  for (const auto& key : mapped.keys()) {
    file.tensors.emplace(key, mapped.tensor(key));
  }
  return file;
}

} // namespace torchlora::io
