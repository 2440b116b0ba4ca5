// Input: an adapter_model.bin if it begins as a zip archive; else the pickle of
// one, around which an archive with eight small storages is made, as checksums
// and offsets stop most changed archives early.
#include <caffe2/serialize/inline_container.h>

#include "adapter_files/adapter_file.h"
#include "fuzz/harness.h"

using namespace torchlora;

namespace {

std::string archive_of(std::string_view pickle) {
  std::string bytes;
  caffe2::serialize::PyTorchStreamWriter writer(
      [&](const void* data, size_t size) {
        bytes.append(static_cast<const char*>(data), size);
        return size;
      });
  writer.writeRecord("data.pkl", pickle.data(), pickle.size());
  writer.writeRecord("byteorder", "little", 6);
  const std::string storage(64, '\x3c');
  for (const char* name : {"0", "1", "2", "3", "4", "5", "6", "7"}) {
    writer.writeRecord(
        std::string("data/") + name, storage.data(), storage.size());
  }
  writer.writeEndOfFile();
  return bytes;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto path = fuzz::work_folder() / "adapter_model.bin";
  const auto input = fuzz::Input(data, size).rest();
  fuzz::write_file(
      path, input.starts_with("PK") ? std::string(input) : archive_of(input));
  fuzz::accept_data_error([&] {
    const auto file = read_adapter_file(fuzz::work_folder());
    for (const auto& [key, tensor] : file.tensors) {
      fuzz::expect(
          tensor.defined() && tensor.device().is_cpu(),
          "a tensor of the file is on the CPU");
      if (tensor.numel() > 0) {
        tensor.to(at::kFloat).sum(); // reads all of it, as a load does
      }
    }
  });
  return 0;
}
