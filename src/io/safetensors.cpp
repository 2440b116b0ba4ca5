#include <torchlora/io/safetensors.h>

#include <cstring>
#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/accumulate.h>
#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/mapped_file.h"
#include "io/safetensors_header.h"
#include "io/safetensors_writer.h"

// A safetensors file is 8 bytes with the length of the header (little endian),
// the header (JSON: name → dtype, shape, range of bytes) and the data. A reader
// maps the file, checks the whole header once and then returns tensors that
// point into the mapping. A writer lays out all ranges from dtypes and sizes
// first, so it can produce one tensor at a time.

namespace torchlora::io {
namespace fs = std::filesystem;

namespace {
constexpr auto kMetadata = "__metadata__";
} // namespace

struct SafetensorsFile::Impl {
  fs::path path;
  std::shared_ptr<MappedFile> mapping;
  SafetensorsHeader header;

  const SafetensorsEntry& at(const std::string& key) const {
    const auto found = header.entries.find(key);
    TORCHLORA_CHECK_DATA(
        found != header.entries.end(),
        "[SafetensorsFile] ",
        path.string(),
        " has no tensor ",
        key);
    return found->second;
  }
};

SafetensorsFile::SafetensorsFile(const fs::path& path) {
  auto impl = std::make_shared<Impl>();
  impl->path = path;
  impl->mapping = std::make_shared<MappedFile>(path, "[SafetensorsFile] ");
  impl->header = parse_safetensors_header(
      impl->mapping->data(), impl->mapping->size(), path.string());
  impl_ = std::move(impl);
}

const fs::path& SafetensorsFile::path() const {
  return impl_->path;
}

const std::vector<std::string>& SafetensorsFile::keys() const {
  return impl_->header.keys;
}

bool SafetensorsFile::contains(const std::string& key) const {
  return impl_->header.entries.count(key) > 0;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->header.metadata;
}

at::ScalarType SafetensorsFile::dtype(const std::string& key) const {
  return impl_->at(key).dtype;
}

std::vector<int64_t> SafetensorsFile::sizes(const std::string& key) const {
  return impl_->at(key).sizes;
}

Tensor SafetensorsFile::tensor(const std::string& key) const {
  const auto& entry = impl_->at(key);
  const auto options = at::TensorOptions().dtype(entry.dtype);
  if (entry.begin == entry.end) {
    return at::empty(entry.sizes, options);
  }
  impl_->mapping->check_size();
  char* data = impl_->mapping->data() + impl_->header.data_begin + entry.begin;
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(entry.dtype) != 0) {
    auto copy = at::empty(entry.sizes, options);
    std::memcpy(copy.data_ptr(), data, entry.end - entry.begin);
    return copy;
  }
  return at::from_blob(
      data,
      entry.sizes,
      [mapping = impl_->mapping](void* /*data*/) {},
      options);
}

void save_safetensors(
    const fs::path& path,
    const NamedTensors& tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<LazyTensor> lazy;
  for (const auto& item : tensors) {
    lazy.push_back(
        {item.first,
         item.second.scalar_type(),
         item.second.sizes().vec(),
         [&item] { return item.second; }});
  }
  save_safetensors(path, lazy, metadata);
}

void save_safetensors(
    const fs::path& path,
    const std::vector<LazyTensor>& tensors,
    const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header[kMetadata] = metadata;
  }
  size_t position = 0;
  std::set<std::string> names = {kMetadata};
  for (const auto& tensor : tensors) {
    TORCH_CHECK_VALUE(
        names.insert(tensor.key).second,
        "[save_safetensors] ",
        path.string(),
        ": the tensor name \"",
        tensor.key,
        "\" is reserved or given twice");
    size_t end = position +
        c10::elementSize(tensor.dtype) * c10::multiply_integers(tensor.sizes);
    header.get_ref<nlohmann::ordered_json::object_t&>().emplace_back(
        tensor.key,
        nlohmann::ordered_json{
            {"dtype", safetensors_dtype_name(tensor.dtype, tensor.key)},
            {"shape", tensor.sizes},
            {"data_offsets", {position, end}}});
    position = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const nlohmann::json::exception& e) {
    TORCH_CHECK_VALUE(
        false,
        "[save_safetensors] ",
        path.string(),
        ": names and metadata must be UTF-8: ",
        e.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  write_file_atomic(path, [&](const auto& append) {
    unsigned char length[8];
    for (size_t i = 0; i < sizeof(length); ++i) {
      length[i] = static_cast<unsigned char>(text.size() >> (8 * i));
    }
    append(length, sizeof(length));
    append(text.data(), text.size());
    for (const auto& tensor : tensors) {
      const auto flat =
          tensor.get().detach().to(at::kCPU, tensor.dtype).contiguous();
      TORCH_INTERNAL_ASSERT(flat.sizes() == at::IntArrayRef(tensor.sizes));
      append(flat.const_data_ptr(), flat.nbytes());
    }
  });
}

} // namespace torchlora::io
