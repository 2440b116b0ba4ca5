#include <torchlora/io/checkpoint.h>

#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/safetensors_writer.h"

namespace torchlora::io {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr auto kSingleFile = "model.safetensors";
constexpr auto kIndexFile = "model.safetensors.index.json";
constexpr auto kConfigFile = "config.json";

json read_weight_map(const fs::path& path) {
  json index;
  try {
    index = json::parse(read_file(path));
  } catch (const json::exception& e) {
    TORCHLORA_CHECK_DATA(false, path.string(), " is not JSON: ", e.what());
  }
  TORCHLORA_CHECK_DATA(
      index.is_object() && index.contains("weight_map") &&
          index["weight_map"].is_object(),
      path.string(),
      ": expected an object \"weight_map\"");
  for (const auto& [key, file] : index["weight_map"].items()) {
    TORCHLORA_CHECK_DATA(
        file.is_string() &&
            fs::path(file.get<std::string>()).filename() ==
                file.get<std::string>(),
        path.string(),
        ": weight_map names for ",
        key,
        " something that is not a file beside it: ",
        file.dump());
  }
  return index["weight_map"];
}

bool is_weight_file(const fs::path& path) {
  const auto name = path.filename().string();
  return name == kIndexFile || path.extension() == ".safetensors" ||
      path.extension() == ".bin" || path.extension() == ".gguf";
}

/// Parameters and buffers by name.
std::unordered_map<std::string, at::Tensor> state_of(
    const torch::nn::Module& model) {
  std::unordered_map<std::string, at::Tensor> state;
  for (const auto& item : model.named_parameters()) {
    state.emplace(item.key(), item.value());
  }
  for (const auto& item : model.named_buffers()) {
    state.emplace(item.key(), item.value());
  }
  return state;
}

} // namespace

Checkpoint::Checkpoint(const fs::path& directory) : directory_(directory) {
  const auto single = directory / kSingleFile;
  const auto index = directory / kIndexFile;
  std::error_code error;
  if (fs::exists(single, error) || !fs::exists(index, error)) {
    TORCHLORA_CHECK_DATA(
        fs::is_directory(directory, error),
        "[Checkpoint] there is no folder ",
        directory.string());
    TORCHLORA_CHECK_DATA(
        fs::exists(single, error),
        "[Checkpoint] ",
        directory.string(),
        " has neither ",
        kSingleFile,
        " nor ",
        kIndexFile);
    files_.push_back(std::make_shared<SafetensorsFile>(single));
    for (const auto& key : files_[0]->keys()) {
      keys_.push_back(key);
      file_index_[key] = 0;
    }
    return;
  }
  const auto weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [key, file] : weight_map.items()) {
    shards.insert(file.get<std::string>());
  }
  for (const auto& shard : shards) {
    TORCHLORA_CHECK_DATA(
        fs::exists(directory / shard, error),
        "[Checkpoint] the shard ",
        (directory / shard).string(),
        " that ",
        kIndexFile,
        " names is missing");
    files_.push_back(std::make_shared<SafetensorsFile>(directory / shard));
    for (const auto& key : files_.back()->keys()) {
      TORCHLORA_CHECK_DATA(
          weight_map.contains(key) && weight_map[key] == shard,
          "[Checkpoint] ",
          index.string(),
          " and its shards disagree: ",
          shard,
          " holds ",
          key,
          ", the index places it in ",
          weight_map.contains(key) ? weight_map[key].dump() : "no file");
      keys_.push_back(key);
      file_index_[key] = files_.size() - 1;
    }
  }
  for (const auto& [key, file] : weight_map.items()) {
    TORCHLORA_CHECK_DATA(
        contains(key),
        "[Checkpoint] ",
        index.string(),
        " and its shards disagree: ",
        file.get<std::string>(),
        " has no tensor ",
        key);
  }
}

bool Checkpoint::contains(const std::string& key) const {
  return file_index_.count(key) > 0;
}

const SafetensorsFile& Checkpoint::file_of(const std::string& key) const {
  const auto found = file_index_.find(key);
  TORCHLORA_CHECK_DATA(
      found != file_index_.end(),
      "[Checkpoint] ",
      directory_.string(),
      " has no tensor ",
      key);
  return *files_[found->second];
}

at::Tensor Checkpoint::tensor(const std::string& key) const {
  return file_of(key).tensor(key);
}

void save_pretrained(
    const torch::nn::Module& model,
    const fs::path& source,
    const fs::path& destination) {
  const Checkpoint checkpoint(source);
  auto state = state_of(model);
  for (const auto& [key, tensor] : state) {
    TORCH_CHECK_VALUE(
        checkpoint.contains(key),
        "[save_pretrained] the model has a tensor ",
        key,
        " that the checkpoint ",
        source.string(),
        " does not have. Is an adapter still attached? Merge and unload first");
    TORCH_CHECK_VALUE(
        tensor.sizes() == at::IntArrayRef(checkpoint.file_of(key).sizes(key)),
        "[save_pretrained] ",
        key,
        " has the sizes ",
        tensor.sizes(),
        ", in the checkpoint ",
        checkpoint.file_of(key).sizes(key));
  }
  std::error_code error;
  fs::create_directories(destination, error);
  TORCH_CHECK(
      !error,
      "[save_pretrained] cannot make the folder ",
      destination.string(),
      ": ",
      error.message());
  TORCH_CHECK_VALUE(
      !fs::equivalent(source, destination),
      "[save_pretrained] the destination is the source checkpoint ",
      source.string());

  // Without config.json the folder is not a checkpoint: it goes first and
  // comes last.
  fs::remove(destination / kConfigFile, error);
  for (const auto& file : checkpoint.files()) {
    std::vector<LazyTensor> tensors;
    for (const auto& key : file->keys()) {
      const auto found = state.find(key);
      auto tensor = found == state.end() ? file->tensor(key) : found->second;
      tensors.push_back({key, file->dtype(key), file->sizes(key), [tensor] {
                           return tensor;
                         }});
    }
    save_safetensors(
        destination / file->path().filename(), tensors, file->metadata());
  }
  std::vector<fs::path> others;
  for (const auto& entry : fs::directory_iterator(source)) {
    const bool is_index = entry.path().filename() == kIndexFile &&
        checkpoint.files()[0]->path().filename() != kSingleFile;
    if (entry.is_regular_file() &&
        (is_index || !is_weight_file(entry.path())) &&
        entry.path().filename() != kConfigFile) {
      others.push_back(entry.path());
    }
  }
  others.push_back(source / kConfigFile);
  for (const auto& path : others) {
    if (fs::exists(path, error)) {
      write_file_atomic(destination / path.filename(), read_file(path));
    }
  }
}

} // namespace torchlora::io
