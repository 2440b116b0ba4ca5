// Input: a safetensors file. If it does not begin with the length of a header
// that fits, the length is put before it: the header then ends at the first
// zero byte, and the data follows.
#include <cstring>
#include <optional>

#include <torchlora/io/safetensors.h>

#include "fuzz/harness.h"

using namespace torchlora;

namespace {

std::string file_of(fuzz::Input input) {
  const auto whole = input.rest();
  uint64_t length = 0;
  if (whole.size() >= sizeof(length)) {
    std::memcpy(&length, whole.data(), sizeof(length));
    if (length <= whole.size()) {
      return std::string(whole);
    }
  }
  const auto header = input.take_until('\0');
  length = header.size();
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(header).append(input.rest());
}

/// Reads the first and the last byte of a tensor.
void touch(const Tensor& tensor) {
  if (tensor.nbytes() > 0) {
    const auto* bytes = static_cast<const uint8_t*>(tensor.const_data_ptr());
    const volatile int sum = bytes[0] + bytes[tensor.nbytes() - 1];
    static_cast<void>(sum);
  }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto path = fuzz::work_folder() / "x.safetensors";
  static const auto copy = fuzz::work_folder() / "copy.safetensors";
  fuzz::write_file(path, file_of({data, size}));
  std::optional<io::SafetensorsFile> file;
  fuzz::accept_data_error([&] { file.emplace(path); });
  if (!file) {
    return 0;
  }
  // A file that was accepted is read without an error, and written again.
  NamedTensors tensors;
  for (const auto& key : file->keys()) {
    tensors.emplace_back(key, file->tensor(key));
    const auto& tensor = tensors.back().second;
    fuzz::expect(
        tensor.scalar_type() == file->dtype(key) &&
            tensor.sizes() == at::IntArrayRef(file->sizes(key)),
        "a tensor has the dtype and the sizes of the header");
    touch(tensor);
  }
  io::save_safetensors(copy, tensors, file->metadata());
  const io::SafetensorsFile again(copy);
  fuzz::expect(
      again.keys() == file->keys() && again.metadata() == file->metadata(),
      "a file that was written again has the same names and metadata");
  return 0;
}
