#include "adapter_files/adapter_file.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import_read.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>

namespace torchlora {
namespace {

AdapterFile read_pickle(const std::filesystem::path& path) {
  AdapterFile file{path, {}};
  try {
    caffe2::serialize::PyTorchStreamReader reader(path.string());
    // To the CPU, wherever the adapter was saved.
    const auto value = torch::jit::readArchiveAndTensors(
        "data", "", "", std::nullopt, std::nullopt, at::kCPU, reader);
    for (const auto& item : value.toGenericDict()) {
      file.tensors.emplace(
          item.key().toStringRef(),
          item.value().toTensor().detach().contiguous());
    }
  } catch (const c10::Error& error) {
    TORCHLORA_CHECK_DATA(
        false,
        "[load_adapter] ",
        path.string(),
        " is not a plain dict of tensors in the zip format of torch.save; save "
        "it again with PEFT, or as torch.save(dict(tensors)): ",
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
  const io::SafetensorsFile mapped(path);
  AdapterFile file{path, {}};
  for (const auto& key : mapped.keys()) {
    file.tensors.emplace(key, mapped.tensor(key));
  }
  return file;
}

} // namespace torchlora
