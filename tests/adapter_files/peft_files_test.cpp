#include <filesystem>
#include <fstream>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/pretrained.h>

#include "device/device.h"

namespace torchlora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;

/// A text model beside a tower of clipped layers, like a Gemma 4.
struct MultimodalImpl : torch::nn::Module, nn::PretrainedModel {
  explicit MultimodalImpl(bool with_tower) : with_tower_(with_tower) {
    text_ = register_module("text", std::make_shared<torch::nn::Module>());
    q_proj = text_->register_module("q_proj", nn::Linear(6, 4));
    v_proj = text_->register_module("v_proj", nn::Linear(6, 4));
    if (with_tower) {
      auto tower =
          register_module("tower", std::make_shared<torch::nn::Module>());
      tower_q = tower->register_module("q_proj", nn::ClippableLinear(6, 4));
    }
  }
  std::string model_type() const override {
    return "gemma4";
  }
  std::string architecture() const override {
    return "Multimodal";
  }
  std::string name_or_path() const override {
    return "some/base";
  }
  std::vector<std::string> unloaded_modules() const override {
    return with_tower_ ? std::vector<std::string>()
                       : std::vector<std::string>{
                             "tower", "tower.q_proj", "tower.q_proj.linear"};
  }
  std::shared_ptr<torch::nn::Module> text_;
  nn::Linear q_proj{nullptr}, v_proj{nullptr};
  nn::ClippableLinear tower_q{nullptr};

 private:
  bool with_tower_;
};

class PeftFiles : public testing::Test {
 protected:
  PeftFiles() {
    fs::remove_all(folder_);
  }
  json save(MultimodalImpl& model, const LoraConfig& config) {
    auto peft = get_peft_model(model, config);
    peft.save_pretrained(folder_);
    peft.unload();
    return read_config();
  }
  json read_config() {
    return json::parse(io::read_file(folder_ / "adapter_config.json"));
  }
  void edit(const std::function<void(json&)>& change) {
    auto config = read_config();
    change(config);
    std::ofstream(folder_ / "adapter_config.json") << config;
  }
  /// The message with which loading the folder fails.
  std::string refusal() {
    try {
      PeftModel::from_pretrained(*text_, folder_);
    } catch (const DataError& e) {
      return e.what_without_backtrace();
    }
    return "";
  }
  fs::path folder_ = fs::path(testing::TempDir()) / "peft_files";
  std::shared_ptr<MultimodalImpl> text_ =
      test::make_module<MultimodalImpl>(/*with_tower=*/false);
  std::shared_ptr<MultimodalImpl> whole_ =
      test::make_module<MultimodalImpl>(/*with_tower=*/true);
};

using Names = std::vector<std::string>;

TEST_F(PeftFiles, TheUsersSpellingIsKeptWherePeftResolvesItTheSame) {
  EXPECT_EQ(
      save(*text_, LoraConfig().target_modules({"v_proj"}))["target_modules"],
      Names{"v_proj"});
  EXPECT_EQ(
      save(
          *text_, LoraConfig().target_modules(R"(text\..*)"))["target_modules"],
      R"(text\..*)");
  EXPECT_EQ(
      save(
          *whole_,
          LoraConfig().target_modules({"q_proj.linear"}))["target_modules"],
      Names{"q_proj.linear"});
}

// PEFT raises a ValueError where a name reaches a clipped layer.
TEST_F(PeftFiles, NamesThatWouldReachTheTowerAreResolved) {
  const auto config =
      save(*text_, LoraConfig().target_modules({"q_proj", "v_proj"}));
  EXPECT_EQ(config["target_modules"], (Names{"text.q_proj", "text.v_proj"}));
  EXPECT_EQ(
      save(*whole_, LoraConfig().target_modules({"q_proj"}))["target_modules"],
      (Names{"text.q_proj", "tower.q_proj.linear"}));
  const auto excluding = save(
      *whole_,
      LoraConfig().target_modules({"q_proj"}).exclude_modules({"tower"}));
  EXPECT_EQ(excluding["target_modules"], Names{"text.q_proj"});
  EXPECT_TRUE(excluding["exclude_modules"].is_null());
  EXPECT_EQ(
      save(*text_, LoraConfig().target_modules("all-linear"))["target_modules"],
      (Names{"text.q_proj", "text.v_proj"}));
}

TEST_F(PeftFiles, PatternsThatPeftWouldNotFindAreResolved) {
  const auto config = save(
      *whole_,
      LoraConfig(4).target_modules({"q_proj"}).rank_pattern({{"q_proj", 2}}));
  EXPECT_EQ(
      config["rank_pattern"],
      (json{{"^text.q_proj", 2}, {"^tower.q_proj.linear", 2}}));
  EXPECT_EQ(PeftModel::from_pretrained(*whole_, folder_).layers().size(), 2U);
}

// The file's keys are sorted: the second would come first and take both.
TEST_F(PeftFiles, PatternsWhoseOrderTheFileLosesAreResolved) {
  const auto config = save(
      *whole_,
      LoraConfig(4)
          .target_modules({"q_proj.linear", "text.q_proj"})
          .rank_pattern({{"text.q_proj", 2}, {"(linear|q_proj)", 3}}));
  EXPECT_EQ(
      config["rank_pattern"],
      (json{{"^text.q_proj", 2}, {"^tower.q_proj.linear", 3}}));
  EXPECT_EQ(PeftModel::from_pretrained(*whole_, folder_).layers().size(), 2U);
}

TEST_F(PeftFiles, TheConfigurationHasAllKeysOfPeft) {
  const auto config = save(
      *text_,
      LoraConfig(4)
          .lora_alpha(1.5)
          .target_modules({"v_proj"})
          .task_type("CAUSAL_LM"));
  EXPECT_EQ(config.size(), 41U);
  EXPECT_EQ(config["base_model_name_or_path"], "some/base");
  EXPECT_EQ(config["task_type"], "CAUSAL_LM");
  EXPECT_EQ(config["lora_alpha"], 1.5);
  EXPECT_EQ(config["inference_mode"], true);
  EXPECT_EQ(config["peft_type"], "LORA");
}

TEST_F(PeftFiles, AnOldSmallConfigurationLoads) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  edit([](json& config) {
    config = {
        {"peft_type", "LORA"},
        {"r", 4},
        {"lora_alpha", 8},
        {"target_modules", {"v_proj"}},
        {"a_key_of_the_future", 1}};
  });
  const auto peft = PeftModel::from_pretrained(*text_, folder_);
  EXPECT_EQ(peft.layers().size(), 1U);
  peft.save_pretrained(folder_);
  EXPECT_EQ(read_config()["a_key_of_the_future"], 1); // kept
}

TEST_F(PeftFiles, AWeightsFileThatIsNoDictionaryOfTensorsIsRefused) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  fs::remove(folder_ / "adapter_model.safetensors");
  for (const std::string& bytes : {"", "not a zip archive"}) {
    io::write_file_atomic(folder_ / "adapter_model.bin", bytes);
    EXPECT_NE(refusal().find("adapter_model.bin"), std::string::npos);
  }
}

TEST_F(PeftFiles, FeaturesThatAreNotSupportedAreRefusedByName) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  const auto whole = read_config();
  const std::pair<const char*, json> table[] = {
      {"bias", "some"},
      {"target_parameters", "experts.down_proj"},
      {"trainable_token_indices", {"one"}},
      {"trainable_token_indices", {{"v_proj", {1.5}}}},
      {"layer_replication", {{0, 4, 2, 5}}},
      {"alora_invocation_tokens", {1, 2}},
      {"init_lora_weights", "pissa_niter_4"},
      {"init_lora_weights", 3},
      {"peft_type", "IA3"},
      {"peft_type", nullptr},
      {"peft_type", 1},
      {"r", "eight"},
      {"r", 8.5},
      {"r", 1e300},
      {"target_modules", 7},
      {"rank_pattern", {{"v_proj", "two"}}},
  };
  for (const auto& [key, value] : table) {
    edit([&, k = key, v = value](json& config) {
      config = whole;
      config[k] = v;
    });
    EXPECT_NE(
        refusal().find(value == "pissa_niter_4" ? "pissa" : key),
        std::string::npos)
        << key << ": " << refusal();
  }
}

// As PEFT 0.21.2 takes them: None is false or unset, and an error for a number.
TEST_F(PeftFiles, NullIsWhatNoneIsInPeft) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  const auto whole = read_config();
  const std::set<std::string> refused = {
      "alpha_pattern",
      "bias",
      "lora_alpha",
      "lora_dropout",
      "peft_type",
      "r",
      "rank_pattern"};
  for (const auto& item : whole.items()) {
    const auto& key = item.key();
    edit([&](json& config) {
      config = whole;
      config[key] = nullptr;
    });
    std::string message;
    try {
      PeftModel::from_pretrained(*text_, folder_).unload();
    } catch (const DataError& e) {
      message = e.what_without_backtrace();
    }
    if (key == "target_modules") { // the defaults are names that it lacks
      EXPECT_NE(message.find("does not fit"), std::string::npos) << message;
      continue;
    }
    EXPECT_EQ(!message.empty(), refused.contains(key)) << key << message;
    if (!message.empty()) {
      EXPECT_NE(message.find(key + " must be"), std::string::npos) << message;
      EXPECT_NE(message.find("null"), std::string::npos) << message;
    }
  }
}

TEST_F(PeftFiles, AConfigurationThatCannotBeRightIsAnErrorOfItsFile) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  const auto whole = read_config();
  const std::pair<json, const char*> table[] = {
      {{{"r", 0}}, "positive integer value but the value passed is 0"},
      {{{"r", -3}}, "-3"},
      {{{"r", true}}, "r must be an integer"},
      {{{"r", 4.0}}, "r must be an integer"},
      {{{"r", 1e15}}, "r must be an integer"},
      {{{"lora_alpha", "16"}}, "lora_alpha must be a number"},
      {{{"lora_dropout", 7}}, "lora_dropout"},
      {{{"rank_pattern", {{"v_proj", 0}}}}, "rank_pattern"},
      {{{"rank_pattern", {{"(v_proj", 4}}}}, "Python's re"},
      {{{"alpha_pattern", {{"v_proj)", 4}}}}, "Python's re"},
      {{{"target_modules", "(v_proj"}}, "Python's re"},
      {{{"exclude_modules", "*"}}, "Python's re"},
      {{{"layers_to_transform", 1.5}}, "layers_to_transform must be"},
      {{{"layers_to_transform", {1, true}}}, "layers_to_transform must be"},
      {{{"layers_to_transform", {0}}, {"target_modules", ".*v_proj"}},
       "layers_to_transform"},
      {{{"layers_pattern", "layers"}}, "layers_pattern"},
      {{{"eva_config", json::array()}}, "eva_config must be an object"},
      {{{"corda_config", {{"corda_method", nullptr}}}}, "corda_method"},
      {{{"target_modules", json::array()}}, "No `target_modules` passed"},
      {{{"target_modules", {"k_proj"}}}, "not found in the base model"},
      {{{"layer_replication", {{0, 1}, {0, 1}}}}, "layer_replication"},
  };
  for (const auto& [change, expected] : table) {
    auto config = whole;
    for (const auto& item : change.items()) {
      config[item.key()] = item.value();
    }
    std::ofstream(folder_ / "adapter_config.json") << config;
    const auto message = refusal();
    EXPECT_NE(message.find(expected), std::string::npos) << change << message;
    EXPECT_NE(message.find("adapter_config.json"), std::string::npos)
        << message;
  }
}

TEST_F(PeftFiles, ASavedConfigurationIsFrozenUntilItIsToldNotToBe) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  const auto config = load_adapter_config(folder_);
  EXPECT_TRUE(config.inference_mode());
  auto peft = get_peft_model(*text_, config);
  EXPECT_TRUE(peft.trainable_parameters().empty());
  peft.unload();
  peft = get_peft_model(*text_, LoraConfig(config).inference_mode(false));
  EXPECT_EQ(peft.trainable_parameters().size(), 2U);
}

// PEFT's modules_to_save ["head"] takes every module whose name ends so.
TEST_F(PeftFiles, ModulesThatPeftSavedByTheEndOfTheirNameAreNamed) {
  save(*text_, LoraConfig(4).target_modules({"v_proj"}));
  edit([](json& config) { config["modules_to_save"] = {"proj"}; });
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const io::SafetensorsFile file(folder_ / "adapter_model.safetensors");
    for (const auto& key : file.keys()) {
      tensors.emplace_back(key, file.tensor(key).clone());
    }
  }
  tensors.emplace_back(
      "base_model.model.text.q_proj.weight", test::ones({4, 6}));
  io::save_safetensors(folder_ / "adapter_model.safetensors", tensors);
  text_->register_module("proj", torch::nn::Linear(2, 2));
  const auto message = refusal();
  EXPECT_NE(
      message.find("\"proj\" took \"text.q_proj\" too"), std::string::npos)
      << message;
}

TEST_F(PeftFiles, TensorsThatDoNotFitAreListedAndTheModelIsLeftAlone) {
  save(*text_, LoraConfig(4).target_modules({"q_proj", "v_proj"}));
  const auto path = folder_ / "adapter_model.safetensors";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const io::SafetensorsFile file(path);
    for (const auto& key : file.keys()) {
      tensors.emplace_back(key, file.tensor(key).clone());
    }
  }
  const std::string prefix = "base_model.model.text.";
  const auto with = [&](const std::function<void()>& change) {
    const auto saved = tensors;
    change();
    io::save_safetensors(path, tensors);
    tensors = saved;
    return refusal();
  };
  EXPECT_NE(
      with([&] {
        tensors.erase(tensors.begin());
      }).find("missing (1): " + prefix + "q_proj.lora_A.weight"),
      std::string::npos);
  EXPECT_NE(
      with([&] {
        tensors.emplace_back("other.key", test::ones({1}));
      }).find("unexpected (1): other.key"),
      std::string::npos);
  EXPECT_NE(
      with([&] {
        tensors[0].second = test::ones({3, 6});
      }).find("q_proj.lora_A.weight is [3, 6], expected [4, 6]"),
      std::string::npos);
  EXPECT_EQ(text_->named_parameters().size(), 4U);
}

TEST_F(PeftFiles, ClippedLayersLoadUnderBothSpellings) {
  save(*whole_, LoraConfig(4).target_modules({"q_proj"}));
  const auto path = folder_ / "adapter_model.safetensors";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const io::SafetensorsFile file(path);
    for (auto key : file.keys()) {
      const auto value = file.tensor(key).clone();
      const auto at = key.find(".linear.");
      if (at != std::string::npos) {
        key.erase(at, std::string(".linear").size());
      }
      tensors.emplace_back(key, value);
    }
  }
  io::save_safetensors(path, tensors);
  EXPECT_EQ(PeftModel::from_pretrained(*whole_, folder_).layers().size(), 2U);
}

TEST_F(PeftFiles, OtherAdaptersAreSavedIntoFoldersOfTheirNames) {
  auto peft = get_peft_model(*text_, LoraConfig(4).target_modules({"v_proj"}));
  peft.add_adapter("second", LoraConfig(2).target_modules({"q_proj"}));
  peft.save_pretrained(folder_);
  EXPECT_TRUE(fs::exists(folder_ / "adapter_model.safetensors"));
  EXPECT_TRUE(fs::exists(folder_ / "second" / "adapter_config.json"));
  peft.delete_adapter("second");
  peft.load_adapter(folder_ / "second", "second");
  EXPECT_EQ(peft.peft_config("second").r(), 2);
}

} // namespace
} // namespace torchlora
