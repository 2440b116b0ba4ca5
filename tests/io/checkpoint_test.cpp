#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/checkpoint.h>

namespace torchlora::io {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// An empty folder of this name.
fs::path folder(const std::string& name) {
  const auto path = fs::path(testing::TempDir()) / ("checkpoint_" + name);
  fs::remove_all(path);
  fs::create_directories(path);
  return path;
}

void write_index(const fs::path& directory, const json& weight_map) {
  std::ofstream(directory / "model.safetensors.index.json")
      << json{{"metadata", {{"total_size", 40}}}, {"weight_map", weight_map}};
}

/// A model of one linear layer `layer`, a tower that no model loads, in two
/// shards and bf16, and the files beside them.
fs::path sharded_checkpoint(const std::string& name) {
  const auto path = folder(name);
  save_safetensors(
      path / "model-00001-of-00002.safetensors",
      {{"layer.weight", torch::full({2, 3}, 0.5, at::kBFloat16)},
       {"tower.weight", torch::full({2}, 7.0, at::kBFloat16)}},
      {{"format", "pt"}, {"made", "here"}});
  save_safetensors(
      path / "model-00002-of-00002.safetensors",
      {{"layer.bias", torch::zeros({2}, at::kBFloat16)}});
  write_index(
      path,
      {{"layer.weight", "model-00001-of-00002.safetensors"},
       {"tower.weight", "model-00001-of-00002.safetensors"},
       {"layer.bias", "model-00002-of-00002.safetensors"}});
  for (const auto* file :
       {"config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md"}) {
    std::ofstream(path / file) << "content of " << file;
  }
  std::ofstream(path / "pytorch_model.bin") << "other weights";
  std::ofstream(path / "pytorch_model.bin.index.json") << "{}";
  return path;
}

struct ModelImpl : torch::nn::Module {
  ModelImpl() : layer(register_module("layer", torch::nn::Linear(3, 2))) {}
  torch::nn::Linear layer;
};
TORCH_MODULE(Model);

std::string message_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const c10::Error& e) {
    return e.what_without_backtrace();
  }
  return "no error";
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Checkpoint, ReadsOneFileOrShards) {
  const Checkpoint sharded(sharded_checkpoint("shards"));
  EXPECT_EQ(sharded.files().size(), 2U);
  EXPECT_EQ(
      sharded.keys(),
      (std::vector<std::string>{"layer.weight", "tower.weight", "layer.bias"}));
  EXPECT_EQ(sharded.tensor("tower.weight")[0].item<float>(), 7);
  EXPECT_EQ(
      sharded.file_of("layer.bias").path().filename(),
      "model-00002-of-00002.safetensors");
  EXPECT_FALSE(sharded.contains("head"));
  EXPECT_THROW(sharded.tensor("head"), DataError);

  const auto single = folder("single");
  save_safetensors(single / "model.safetensors", {{"a", torch::ones({2})}});
  EXPECT_EQ(Checkpoint(single).keys(), std::vector<std::string>{"a"});
}

TEST(Checkpoint, WhatIsMissingOrDoesNotFitIsNamed) {
  const std::string first = "model-00001-of-00002.safetensors";
  const std::string second = "model-00002-of-00002.safetensors";
  const json good = {
      {"layer.weight", first}, {"tower.weight", first}, {"layer.bias", second}};
  const auto without = [&](const char* key) {
    auto map = good;
    map.erase(key);
    return map;
  };
  const auto with = [&](const char* key, const json& file) {
    auto map = good;
    map[key] = file;
    return map;
  };
  struct Case {
    std::string cause, name;
    json weight_map;
  };
  const Case table[] = {
      {"holds tower.weight", "no file", without("tower.weight")},
      {"holds tower.weight", second, with("tower.weight", second)},
      {"has no tensor head", second, with("head", second)},
      {"missing", "model-00003", with("head", "model-00003.safetensors")},
      {"not a file beside it", "head", with("head", "../other.safetensors")},
      {"not a file beside it", "head", with("head", 3)},
      {"not empty", "weight_map", json::object()},
      {"weight_map", "expected an object", json::array()},
  };
  const auto path = sharded_checkpoint("disagreeing");
  for (const auto& c : table) {
    write_index(path, c.weight_map);
    const auto message = message_of([&] { Checkpoint checkpoint(path); });
    EXPECT_TRUE(has(message, c.cause) && has(message, c.name)) << message;
    EXPECT_TRUE(has(message, path.string())) << message;
    EXPECT_THROW(Checkpoint checkpoint(path), DataError);
  }
  std::ofstream(path / "model.safetensors.index.json") << "{";
  EXPECT_TRUE(
      has(message_of([&] { Checkpoint checkpoint(path); }), "not valid JSON"));
  write_index(path, good);
  fs::remove(path / second);
  EXPECT_TRUE(has(message_of([&] { Checkpoint checkpoint(path); }), second));
  EXPECT_THROW(Checkpoint checkpoint(folder("empty")), DataError);
  EXPECT_TRUE(
      has(message_of([&] { Checkpoint checkpoint(path / "nowhere"); }),
          "there is no folder"));
}

TEST(SavePretrained, WritesTheSameShardsAndCarriesTheRestOver) {
  const auto source = sharded_checkpoint("source");
  const auto destination = folder("destination");
  // What an earlier save left: it would be read instead of the shards.
  save_safetensors(
      destination / "model.safetensors", {{"old", torch::ones({1})}});
  Model model;
  torch::NoGradGuard no_grad;
  model->layer->weight.fill_(2.25);
  model->layer->bias.fill_(-1);
  save_pretrained(*model, source, destination);

  const Checkpoint written(destination);
  EXPECT_EQ(written.keys(), Checkpoint(source).keys());
  EXPECT_EQ(written.files().size(), 2U);
  EXPECT_EQ(written.files()[0]->metadata().at("made"), "here");
  EXPECT_EQ(written.file_of("layer.bias").dtype("layer.bias"), at::kBFloat16);
  EXPECT_TRUE(torch::equal(
      written.tensor("layer.weight"),
      torch::full({2, 3}, 2.25, at::kBFloat16)));
  EXPECT_EQ(written.tensor("layer.bias")[1].item<float>(), -1);
  EXPECT_EQ(written.tensor("tower.weight")[1].item<float>(), 7);
  for (const auto* file :
       {"config.json",
        "generation_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md"}) {
    EXPECT_EQ(read_file(destination / file), std::string("content of ") + file);
  }
  EXPECT_FALSE(fs::exists(destination / "pytorch_model.bin"));
  EXPECT_FALSE(fs::exists(destination / "pytorch_model.bin.index.json"));
  EXPECT_EQ(
      std::distance(
          fs::directory_iterator(destination), fs::directory_iterator()),
      8);
}

TEST(SavePretrained, AnInterruptedSaveIsNotACheckpoint) {
  const auto source = sharded_checkpoint("interrupted_source");
  const auto destination = folder("interrupted");
  Model model;
  save_pretrained(*model, source, destination);
  // The second shard cannot be written: something else has its name.
  const auto blocked = destination / "model-00002-of-00002.safetensors";
  fs::remove(blocked);
  fs::create_directories(blocked / "full");
  const auto message =
      message_of([&] { save_pretrained(*model, source, destination); });
  EXPECT_TRUE(has(message, blocked.string()) && has(message, "directory"))
      << message;
  EXPECT_FALSE(fs::exists(destination / "config.json"));
  EXPECT_THROW(Checkpoint checkpoint(destination), DataError);
}

TEST(SavePretrained, RefusesWhatWouldSpoilACheckpoint) {
  const auto source = sharded_checkpoint("kept");
  const auto before = read_file(source / "model-00001-of-00002.safetensors");
  Model model;
  EXPECT_TRUE(
      has(message_of([&] { save_pretrained(*model, source, source / "."); }),
          "the destination is the source"));
  const auto destination = folder("refused");
  model->register_buffer("lora_A", torch::ones({1}));
  EXPECT_TRUE(
      has(message_of([&] { save_pretrained(*model, source, destination); }),
          "Merge and unload"));
  Model wider;
  wider->layer->weight.set_data(torch::ones({2, 4}));
  EXPECT_THROW(save_pretrained(*wider, source, destination), c10::ValueError);
  EXPECT_TRUE(
      has(message_of([&] {
            save_pretrained(*Model(), source, source / "README.md" / "below");
          }),
          "Not a directory"));
  EXPECT_TRUE(fs::is_empty(destination));
  EXPECT_EQ(read_file(source / "model-00001-of-00002.safetensors"), before);
}

} // namespace
} // namespace torchlora::io
