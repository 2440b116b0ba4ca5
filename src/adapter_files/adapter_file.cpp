#include "adapter_files/adapter_file.h"

#include <ATen/ops/isfinite.h>

#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>

#include "adapter_files/pickle.h"
#include "io/input_file.h"
#include "io/mapped_file.h"
#include "io/recognize.h"
#include "io/stored_zip.h"

namespace torchlora {
namespace {

AdapterFile read_pickle(const std::filesystem::path& path) {
  auto file = std::make_shared<io::MappedFile>(path, "[load_adapter] ");
  const auto where = "[load_adapter] " + path.string() +
      " is not a plain dict of tensors in the zip format of torch.save; save "
      "it again with PEFT, or as torch.save(dict(tensors)): ";
  const std::string_view bytes(file->data(), file->size());
  const auto format = bytes.starts_with("PK")
      ? std::string()
      : io::recognized_format(bytes.substr(0, 4096));
  TORCHLORA_CHECK_DATA(
      format.empty(),
      "[load_adapter] ",
      path.string(),
      ": expected a file of torch.save, found ",
      format);
  const auto files = io::read_stored_zip(bytes, where);
  return {path, read_pickled_tensors(files, std::move(file), where)};
}

AdapterFile read_safetensors(const std::filesystem::path& path) {
  const io::SafetensorsFile mapped(path);
  AdapterFile file{path, {}, mapped.metadata()};
  for (const auto& key : mapped.keys()) {
    file.tensors.emplace(key, mapped.tensor(key));
  }
  return file;
}

/// Types of less than two bytes have no `isfinite`.
void check_finite(const AdapterFile& file) {
  for (const auto& [key, tensor] : file.tensors) {
    const bool is_factor = key.find(".lora_") != std::string::npos &&
        tensor.element_size() >= 2 &&
        (tensor.is_floating_point() || tensor.is_complex());
    TORCHLORA_CHECK_DATA(
        !is_factor || at::isfinite(tensor).all().item<bool>(),
        "[load_adapter] ",
        file.path.string(),
        ": ",
        key,
        " has NaN or infinity: its training failed; use an earlier checkpoint");
  }
}

} // namespace

AdapterFile read_adapter_file(const std::filesystem::path& directory) {
  const auto path = directory / "adapter_model.safetensors";
  const auto pickle = directory / "adapter_model.bin";
  const bool is_pickle = !io::is_present(path) && io::is_present(pickle);
  auto file = is_pickle ? read_pickle(pickle) : read_safetensors(path);
  check_finite(file);
  return file;
}

} // namespace torchlora
