#include <algorithm>
#include <sstream>

#include "device/device.h"
#include "models/gemma4/tiny.h"

#include <torchlora/error.h>
#include <torchlora/models/gemma4/model.h>
#include <torchlora/nn/inspect.h>

namespace torchlora::gemma4 {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

const std::string kPrefix = "model.language_model.";

NamedTensors e2b_tensors() {
  return read_tensors(kTiny / "E2B" / "model.safetensors");
}

/// A checkpoint folder with E2B's configuration and these tensors.
fs::path write_checkpoint(
    const NamedTensors& tensors,
    const std::string& name = "checkpoint") {
  const auto folder = make_folder(name);
  fs::copy(kTiny / "E2B" / "config.json", folder);
  io::save_safetensors(folder / "model.safetensors", tensors);
  return folder;
}

at::Tensor token_ids() {
  const io::SafetensorsFile file(kTiny / "E2B" / "reference.safetensors");
  return test::on_device(file.tensor("plain.in.input_ids")).clone();
}

at::Tensor logits_of(const fs::path& folder, const LoadOptions& options = {}) {
  torch::NoGradGuard no_grad;
  return load_checkpoint(folder, options)(token_ids());
}

TEST(Gemma4Loader, CopiesNoWeightThatHasTheWantedDtype) {
  std::ifstream test("/proc/self/maps");
  if (!test) {
    GTEST_SKIP() << "/proc/self/maps is needed to see mappings";
  }
  const auto path = fs::canonical(kTiny / "E2B" / "model.safetensors");
  const auto model = from_pretrained(path.parent_path(), {at::kBFloat16});
  std::vector<std::pair<uintptr_t, uintptr_t>> mappings;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (line.find(path.string()) != std::string::npos) {
      uintptr_t begin = 0, end = 0;
      char dash = 0;
      std::istringstream(line) >> std::hex >> begin >> dash >> end;
      mappings.emplace_back(begin, end);
    }
  }
  ASSERT_FALSE(mappings.empty());
  const auto is_mapped = [&](const at::Tensor& tensor) {
    const auto address = reinterpret_cast<uintptr_t>(tensor.data_ptr());
    return std::any_of(mappings.begin(), mappings.end(), [&](const auto& m) {
      return m.first <= address && address + tensor.nbytes() <= m.second;
    });
  };
  for (const auto& item : model->named_parameters()) {
    EXPECT_TRUE(is_mapped(item.value())) << item.key();
  }
  for (const auto& item : model->named_buffers()) {
    EXPECT_TRUE(is_mapped(item.value())) << item.key();
  }
}

TEST(Gemma4Loader, ConvertsToTheWantedDtypeAndKeepsTheValues) {
  const auto stored = load_checkpoint(kTiny / "E2B");
  const auto model = load_checkpoint(kTiny / "E2B", {at::kFloat});
  const auto parameters = stored->named_parameters();
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().scalar_type(), at::kFloat) << item.key();
    const auto& original = parameters[item.key()];
    EXPECT_EQ(original.scalar_type(), at::kBFloat16) << item.key();
    EXPECT_TRUE(torch::equal(item.value(), original.to(at::kFloat)));
  }
  EXPECT_THROW(load_checkpoint(kTiny / "E2B", {at::kInt}), c10::ValueError);
  EXPECT_THROW(
      load_checkpoint(kTiny / "E2B", {at::kFloat8_e4m3fn}), c10::ValueError);
}

TEST(Gemma4Loader, ACheckpointInFp32OrInSeveralDtypesIsTheSameModel) {
  auto tensors = e2b_tensors();
  for (auto& [key, tensor] : tensors) {
    tensor = tensor.to(at::kFloat);
  }
  const auto fp32 = write_checkpoint(tensors, "fp32");
  EXPECT_TRUE(
      torch::equal(logits_of(fp32), logits_of(kTiny / "E2B", {at::kFloat})));
  for (auto& [key, tensor] : tensors) {
    if (key.find("norm") == std::string::npos) {
      tensor = tensor.to(at::kBFloat16);
    }
  }
  const auto model = load_checkpoint(write_checkpoint(tensors, "mixed"));
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().scalar_type(), at::kBFloat16) << item.key();
  }
}

TEST(Gemma4Loader, ShardsAreTheSameModel) {
  const auto tensors = e2b_tensors();
  const auto folder = make_folder("shards");
  fs::copy(kTiny / "E2B" / "config.json", folder);
  const size_t count = 3;
  std::vector<NamedTensors> shards(count);
  json weight_map;
  const auto name = [](size_t i) {
    return "model-0000" + std::to_string(i + 1) + "-of-00003.safetensors";
  };
  for (size_t i = 0; i < tensors.size(); ++i) {
    shards[i % count].push_back(tensors[i]);
    weight_map[tensors[i].first] = name(i % count);
  }
  for (size_t i = 0; i < count; ++i) {
    io::save_safetensors(folder / name(i), shards[i]);
  }
  write_json(
      folder / "model.safetensors.index.json", {{"weight_map", weight_map}});
  EXPECT_TRUE(torch::equal(logits_of(folder), logits_of(kTiny / "E2B")));
  EXPECT_EQ(
      load_checkpoint(folder)->unloaded_modules(),
      load_checkpoint(kTiny / "E2B")->unloaded_modules());
  fs::remove(folder / name(1));
  const auto message = message_of<DataError>([&] { load_checkpoint(folder); });
  EXPECT_NE(message.find(name(1)), std::string::npos) << message;
}

TEST(Gemma4Loader, ACausalCheckpointHasItsOwnNamesAndTheSameLogits) {
  NamedTensors tensors;
  for (const auto& [key, tensor] : e2b_tensors()) {
    if (key.rfind(kPrefix, 0) == 0) {
      tensors.emplace_back("model." + key.substr(kPrefix.size()), tensor);
    }
  }
  const auto folder = make_folder("causal");
  write_json(
      folder / "config.json",
      read_json(kTiny / "E2B" / "config.json")["text_config"]);
  io::save_safetensors(folder / "model.safetensors", tensors);
  const auto causal = load_checkpoint(folder);
  const auto conditional = load_checkpoint(kTiny / "E2B");
  EXPECT_EQ(causal->model_type(), "gemma4_text");
  EXPECT_EQ(causal->architecture(), "Gemma4ForCausalLM");
  EXPECT_TRUE(causal->unloaded_modules().empty());
  const auto parameters = causal->named_parameters();
  EXPECT_TRUE(parameters.contains("model.layers.0.self_attn.q_proj.weight"));
  EXPECT_EQ(parameters.size(), conditional->named_parameters().size());
  EXPECT_TRUE(torch::equal(logits_of(folder), logits_of(kTiny / "E2B")));
}

TEST(Gemma4Loader, TellsWhatItLeftAside) {
  const auto model = load_checkpoint(kTiny / "E2B");
  EXPECT_EQ(model->model_type(), "gemma4");
  EXPECT_EQ(model->architecture(), "Gemma4ForConditionalGeneration");
  EXPECT_EQ(model->name_or_path(), (kTiny / "E2B").string());
  const auto left = model->unloaded_modules();
  const auto has = [&](const std::string& name) {
    return std::find(left.begin(), left.end(), name) != left.end();
  };
  EXPECT_TRUE(has("model.vision_tower"));
  EXPECT_TRUE(has("model.vision_tower.encoder.layers.0.self_attn.q_proj"));
  EXPECT_TRUE(
      has("model.vision_tower.encoder.layers.0.self_attn.q_proj.linear"));
  EXPECT_TRUE(has("model.audio_tower.layers.0.feed_forward1.ffw_layer_1"));
  EXPECT_TRUE(has("model.embed_vision.embedding_projection"));
  EXPECT_TRUE(has("model.embed_audio"));
  EXPECT_FALSE(has("model"));
  // Those of transformers' named_modules() that have a tensor at or below.
  EXPECT_EQ(left.size(), 138u);
  for (const auto& name : left) {
    EXPECT_NE(name.rfind(kPrefix, 0), 0u) << name;
  }
}

TEST(Gemma4Loader, LeavesOutTheKeysAndValuesThatNothingReads) {
  const auto tensors = e2b_tensors();
  const auto unused = kPrefix + "layers.4.self_attn.k_proj.weight";
  ASSERT_TRUE(std::any_of(tensors.begin(), tensors.end(), [&](const auto& t) {
    return t.first == unused;
  }));
  EXPECT_FALSE(
      load_checkpoint(kTiny / "E2B")->named_parameters().contains(unused));
  // transformers saves the folder without them.
  NamedTensors saved;
  for (const auto& [key, tensor] : tensors) {
    bool is_unused = false;
    for (const auto* layer : {"4.", "5.", "6.", "7."}) {
      for (const auto* name : {"k_proj", "v_proj", "k_norm"}) {
        is_unused |= key ==
            kPrefix + "layers." + layer + "self_attn." + name + ".weight";
      }
    }
    if (!is_unused) {
      saved.emplace_back(key, tensor);
    }
  }
  EXPECT_EQ(saved.size(), tensors.size() - 12);
  EXPECT_TRUE(torch::equal(
      logits_of(write_checkpoint(saved)), logits_of(kTiny / "E2B")));
}

TEST(Gemma4Loader, NamesTheTensorThatIsMissingUnexpectedOrOfTheWrongKind) {
  struct Case {
    const char* key;
    at::Tensor tensor; // undefined: removed
    const char* expected;
  };
  const std::vector<Case> cases = {
      {"layers.3.mlp.up_proj.weight", {}, "has no tensor"},
      {"layers.0.self_attn.v_proj.weight", {}, "has no tensor"},
      {"layers.7.layer_scalar", {}, "has no tensor"},
      {"embed_tokens.weight", {}, "has no tensor"},
      {"norm.weight", test::ones({63}), "[64]"},
      {"layers.5.mlp.down_proj.weight", test::ones({64, 96}), "[64, 192]"},
      {"norm.weight", test::ones({64}, at::kInt), "Int"},
      {"layers.8.mlp.up_proj.weight", test::ones({1}), "no place"},
      {"layers.0.self_attn.q_proj.bias", test::ones({1}), "no place"},
      {"layers.4.self_attn.v_norm.weight", test::ones({1}), "no place"},
  };
  for (const auto& c : cases) {
    const auto key = kPrefix + c.key;
    auto tensors = e2b_tensors();
    tensors.erase(
        std::remove_if(
            tensors.begin(),
            tensors.end(),
            [&](const auto& t) { return t.first == key; }),
        tensors.end());
    if (c.tensor.defined()) {
      tensors.emplace_back(key, c.tensor);
    }
    const auto folder = write_checkpoint(tensors);
    const auto message =
        message_of<DataError>([&] { load_checkpoint(folder); });
    EXPECT_NE(message.find(key), std::string::npos) << message;
    EXPECT_NE(message.find(folder.string()), std::string::npos) << message;
    EXPECT_NE(message.find(c.expected), std::string::npos) << message;
  }
}

TEST(Gemma4Loader, ANaNInAWeightIsFoundByName) {
  const auto key = kPrefix + "layers.2.mlp.gate_proj.weight";
  auto tensors = e2b_tensors();
  for (auto& [name, tensor] : tensors) {
    if (name == key) {
      tensor = tensor.clone();
      tensor[3][4] = std::numeric_limits<float>::quiet_NaN();
    }
  }
  const auto model = load_checkpoint(write_checkpoint(tensors));
  EXPECT_EQ(nn::find_nonfinite(*model), std::vector<std::string>{key});
  EXPECT_TRUE(nn::find_nonfinite(*load_checkpoint(kTiny / "E2B")).empty());
}

} // namespace
} // namespace torchlora::gemma4
