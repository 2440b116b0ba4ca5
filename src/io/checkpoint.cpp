#include <torchlora/io/checkpoint.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>

#include "io/copy_file.h"
#include "io/input_file.h"
#include "io/parse_json.h"
#include "io/safetensors_writer.h"

namespace torchlora::io {
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr auto kSingleFile = "model.safetensors";
constexpr auto kIndexFile = "model.safetensors.index.json";
constexpr auto kModelConfigFile = "config.json";

json read_weight_map(const fs::path& path) {
  const auto where = "[Checkpoint] " + path.string() + ": ";
  const auto index = parse_json_unique(read_file(path, kMaxJsonBytes), where);
  TORCHLORA_CHECK_DATA(
      index.is_object() && index.contains("weight_map") &&
          index["weight_map"].is_object() && !index["weight_map"].empty(),
      where,
      "expected an object \"weight_map\" that is not empty");
  for (const auto& [key, file] : index["weight_map"].items()) {
    TORCHLORA_CHECK_DATA(
        file.is_string() &&
            fs::path(file.get<std::string>()).filename() ==
                file.get<std::string>(),
        where,
        "weight_map names for ",
        key,
        " something that is not a file beside it: ",
        json_text(file));
  }
  return index["weight_map"];
}

/// Returns whether a file holds weights in any framework's format, or is an
/// index of such files. A copy of it would contradict the new weights.
bool is_weight_file(const fs::path& path) {
  const auto name = path.filename().string();
  constexpr std::string_view kIndexEnd = ".index.json";
  static const std::set<std::string> extensions = {
      ".safetensors",
      ".bin",
      ".gguf",
      ".pt",
      ".pth",
      ".ckpt",
      ".h5",
      ".msgpack"};
  return extensions.count(path.extension().string()) > 0 ||
      (name.size() >= kIndexEnd.size() &&
       name.compare(
           name.size() - kIndexEnd.size(), kIndexEnd.size(), kIndexEnd) == 0);
}

/// Names a file with weights in another format, for an error message.
std::string note_of_other_weights(const fs::path& directory) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (is_weight_file(entry.path())) {
      return "; it has " + entry.path().filename().string() +
          ", convert it to safetensors (in Python: from_pretrained, then "
          "save_pretrained)";
    }
  }
  return "";
}

/// Returns the files of a checkpoint folder that a save copies. config.json is
/// the last.
std::vector<fs::path> other_files(const Checkpoint& checkpoint) {
  const bool is_sharded =
      checkpoint.files()[0]->path().filename() != kSingleFile;
  std::vector<fs::path> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(checkpoint.directory())) {
    const auto& path = entry.path();
    if (entry.is_regular_file(error) &&
        (!is_weight_file(path) ||
         (is_sharded && path.filename() == kIndexFile))) {
      paths.push_back(path);
    }
  }
  std::stable_partition(paths.begin(), paths.end(), [](const auto& path) {
    return path.filename() != kModelConfigFile;
  });
  return paths;
}

/// Returns parameters and buffers by name.
std::unordered_map<std::string, Tensor> state_of(const Module& model) {
  std::unordered_map<std::string, Tensor> state;
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
  if (is_present(single) || !is_present(index)) {
    TORCHLORA_CHECK_DATA(
        fs::is_directory(directory, error),
        "[Checkpoint] there is no folder ",
        directory.string());
    TORCHLORA_CHECK_DATA(
        is_present(single),
        "[Checkpoint] ",
        directory.string(),
        " has neither ",
        kSingleFile,
        " nor ",
        kIndexFile,
        note_of_other_weights(directory));
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
        is_present(directory / shard),
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
          weight_map.contains(key) ? json_text(weight_map[key]) : "no file");
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

Tensor Checkpoint::tensor(const std::string& key) const {
  return file_of(key).tensor(key);
}

void save_pretrained(
    const Module& model,
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

  // A folder without config.json is not a checkpoint. So that file is removed
  // first and written last.
  for (const auto* name : {kModelConfigFile, kSingleFile, kIndexFile}) {
    fs::remove(destination / name, error);
    TORCH_CHECK(
        !error,
        "[save_pretrained] cannot replace ",
        (destination / name).string(),
        ": ",
        error.message());
  }
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
  for (const auto& path : other_files(checkpoint)) {
    copy_file_atomic(path, destination / path.filename());
  }
}

} // namespace torchlora::io
