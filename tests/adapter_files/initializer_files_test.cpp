#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <nlohmann/json.hpp>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/error.h>
#include <torchlora/init/initializer.h>
#include <torchlora/io/atomic_file.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/tools/preprocess.h>

#include "device/device.h"
#include "init/data_goldens.h"

namespace torchlora {
namespace {
namespace fs = std::filesystem;
using nlohmann::json;
using test::NetImpl;

/// A base and its copy, to which what was saved is loaded.
class InitializerFiles : public testing::Test {
 protected:
  InitializerFiles() {
    fs::remove_all(folder_);
    torch::manual_seed(4);
    model_ = test::make_module<NetImpl>();
    original_ = copy_of_base();
    x_ = test::randn({30, 36});
  }
  std::shared_ptr<NetImpl> copy_of_base() {
    return copy_of(*model_);
  }
  static std::shared_ptr<NetImpl> copy_of(const NetImpl& model) {
    auto copy = test::make_module<NetImpl>();
    torch::NoGradGuard no_grad;
    const auto from = model.parameters();
    auto to = copy->parameters();
    for (size_t i = 0; i < to.size(); ++i) {
      to[i].copy_(from[i]);
    }
    return copy;
  }
  LoraConfig config(const char* name) {
    return LoraConfig(2)
        .lora_alpha(3)
        .target_modules({"a", "c", "d"})
        .init_lora_weights(name);
  }
  /// Adapts and saves the model, and trains it.
  PeftModel train(
      const LoraConfig& config,
      const InitStatistics& statistics = {}) {
    auto peft = get_peft_model(
        *model_,
        config,
        "default",
        InjectOptions().init_statistics(statistics));
    peft.save_pretrained(folder_ / "initial");
    disturb(peft);
    return peft;
  }
  at::Tensor run(NetImpl& model) {
    torch::NoGradGuard no_grad;
    return model.forward(x_);
  }
  InitStatistics preprocess(LoraConfig& config) {
    if (config.init_lora_weights().name() == "corda") {
      return preprocess_corda(*model_, config, [&] { model_->forward(x_); });
    }
    config.lora_ga_config(LoraGAConfig());
    return preprocess_loraga(*model_, config, [&] {
      model_->forward(x_).square().mean().backward();
    });
  }

  fs::path folder_ = fs::path(testing::TempDir()) / "initializer_files";
  std::shared_ptr<NetImpl> model_, original_;
  at::Tensor x_;
};

TEST_F(InitializerFiles, OfAChangedBaseFitItsOriginalOnceConverted) {
  for (const char* name : {"corda", "lora_ga"}) {
    model_ = copy_of_base();
    original_ = copy_of_base();
    auto config = this->config(name);
    const auto statistics = preprocess(config);
    Warnings warnings;
    auto peft = train(config, statistics);
    peft.save_pretrained(folder_ / "raw");
    EXPECT_NE(warnings.text.find("path_initial_model"), std::string::npos);
    EXPECT_THROW(
        PeftModel::from_pretrained(*original_, folder_ / "raw"), DataError);
    peft.save_pretrained(folder_ / "plain", {}, folder_ / "initial");
    warnings.text.clear();
    PeftModel::from_pretrained(*original_, folder_ / "plain");
    EXPECT_EQ(warnings.text, "");
    EXPECT_LT(difference(run(*original_), run(*model_)), 2e-5) << name;
    peft.unload();
    EXPECT_NE(warnings.text.find("merge_and_unload"), std::string::npos);
  }
}

TEST_F(InitializerFiles, OfOneQuantizationQuantizeTheBaseAgain) {
  for (const int64_t bits : {4, 8}) {
    auto base = copy_of_base();
    model_ = copy_of_base();
    auto peft =
        train(config("loftq").loftq_config(LoftQConfig().loftq_bits(bits)));
    peft.save_pretrained(folder_);
    PeftModel::from_pretrained(*base, folder_);
    EXPECT_LT(difference(run(*base), run(*model_)), 1e-6);
    EXPECT_THROW(
        peft.save_pretrained(folder_ / "plain", {}, folder_ / "initial"),
        c10::ValueError);
    // So does a base that is quantized already.
    peft.unload();
    auto quantized = copy_of_base();
    PeftModel::from_pretrained(*quantized, folder_);
    EXPECT_LT(difference(run(*quantized), run(*base)), 1e-6);
    model_ = original_;
    original_ = copy_of_base();
  }
}

TEST_F(InitializerFiles, OfSeveralQuantizationsNeedTheQuantizedBase) {
  Warnings warnings;
  auto peft = train(config("loftq").loftq_config(LoftQConfig().loftq_iter(2)));
  EXPECT_NE(warnings.text.find("cannot be repeated"), std::string::npos);
  peft.save_pretrained(folder_);
  EXPECT_THROW(PeftModel::from_pretrained(*original_, folder_), DataError);
}

TEST_F(InitializerFiles, LoadingDrawsNothing) {
  for (const InitLoraWeights& init : std::initializer_list<InitLoraWeights>{
           true, false, "gaussian", "orthogonal", "mica", "eva"}) {
    auto base = copy_of_base();
    model_ = copy_of_base();
    auto peft = train(config("").init_lora_weights(init));
    peft.save_pretrained(folder_);
    torch::manual_seed(1);
    const auto expected = test::randn({3});
    torch::manual_seed(1);
    auto loaded = PeftModel::from_pretrained(
        *base, folder_, "default", LoadOptions().is_trainable(true));
    EXPECT_TRUE(torch::equal(test::randn({3}), expected));
    EXPECT_LT(difference(run(*base), run(*model_)), 1e-6);
    const auto* adapter = loaded.layers()[0].second->find_adapter("default");
    EXPECT_EQ(
        adapter->lora_B->weight.requires_grad(),
        !(init == InitLoraWeights("mica")));
    model_ = original_;
    original_ = copy_of_base();
  }
}

/// PEFT does not know their names.
TEST_F(InitializerFiles, RegisteredInitializersAreSavedAsTrue) {
  static const bool registered = [] {
    init::register_initializer(
        "files_ones", [](init::Factors& factors, const auto& /*arguments*/) {
          factors.A.fill_(1);
          factors.B.zero_();
        });
    init::register_initializer(
        "files_residual",
        [](init::Factors& factors, const auto& /*arguments*/) {
          factors.A.fill_(0.1);
          factors.B.fill_(0.2);
        },
        {.modifies_base = true});
    return true;
  }();
  ASSERT_TRUE(registered);
  auto base = copy_of_base();
  auto peft = train(config("files_ones"));
  peft.save_pretrained(folder_);
  EXPECT_EQ(
      json::parse(
          std::ifstream(folder_ / "adapter_config.json"))["init_lora_weights"],
      true);
  PeftModel::from_pretrained(*base, folder_);
  EXPECT_LT(difference(run(*base), run(*model_)), 1e-6);

  model_ = copy_of(*original_);
  const auto before = run(*model_);
  peft = get_peft_model(*model_, config("files_residual"));
  EXPECT_LT(difference(run(*model_), before), 1e-5);
  EXPECT_NE(
      refusal([&] {
        peft.save_pretrained(folder_ / "residual");
      }).find("path_initial_model_for_weight_conversion"),
      std::string::npos);
  std::vector<std::pair<std::string, at::Tensor>> initial;
  for (const auto& item : peft.state_dict()) {
    initial.emplace_back(item.key(), item.value());
  }
  fs::create_directories(folder_ / "first");
  io::save_safetensors(folder_ / "first/adapter_model.safetensors", initial);
  disturb(peft);
  peft.save_pretrained(folder_ / "plain", {}, folder_ / "first");
  const auto loaded = PeftModel::from_pretrained(*original_, folder_ / "plain");
  EXPECT_TRUE(loaded.peft_config().init_lora_weights().flag());
  EXPECT_LT(difference(run(*original_), run(*model_)), 2e-5);
}

TEST_F(InitializerFiles, NestedConfigurationsAreThoseOfPeft) {
  const auto nested = [](const LoraConfig& config, const char* key) {
    return json::parse(adapter_config_json(config))[key];
  };
  EXPECT_EQ(
      nested(LoraConfig().corda_config(CordaConfig()), "corda_config"),
      json::parse(R"({"corda_method": "ipm"})"));
  EXPECT_EQ(
      nested(LoraConfig().lora_ga_config(LoraGAConfig()), "lora_ga_config"),
      json::parse(
          R"({"direction": "ArB2r", "scale": "stable", "stable_gamma": 16})"));
  EXPECT_EQ(
      nested(LoraConfig().loftq_config(LoftQConfig()), "loftq_config"),
      json::parse(R"({"loftq_bits": 4, "loftq_iter": 1})"));
  EXPECT_EQ(
      nested(LoraConfig().eva_config(EvaConfig()), "eva_config"),
      json::parse(
          R"({"rho": 2.0, "tau": 0.99, "whiten": false,
              "adjust_scaling_factors": true})"));
  EXPECT_EQ(nested(LoraConfig(), "loftq_config"), json::object());

  const auto read = [&](const char* text) {
    fs::create_directories(folder_);
    std::ofstream(folder_ / "adapter_config.json") << text;
    return load_adapter_config(folder_);
  };
  Warnings warnings;
  auto config = read(R"({"peft_type": "LORA", "r": 2,
      "corda_config": {"corda_method": "kpm", "cache_file": null},
      "lora_ga_config": {"direction": "ArBr", "scale": "unit",
                         "stable_gamma": 4},
      "loftq_config": {"loftq_bits": 8, "loftq_iter": 5},
      "eva_config": {"rho": 1.5, "tau": 0.5, "whiten": true,
                     "use_label_mask": true, "label_mask_value": -100,
                     "adjust_scaling_factors": false}})");
  EXPECT_EQ(warnings.text, "");
  EXPECT_EQ(config.corda_config()->corda_method(), "kpm");
  EXPECT_EQ(config.lora_ga_config()->direction(), "ArBr");
  EXPECT_EQ(config.lora_ga_config()->scale(), "unit");
  EXPECT_EQ(config.lora_ga_config()->stable_gamma(), 4);
  EXPECT_EQ(config.loftq_config()->loftq_bits(), 8);
  EXPECT_EQ(config.loftq_config()->loftq_iter(), 5);
  EXPECT_EQ(config.eva_config()->rho(), 1.5);
  EXPECT_EQ(config.eva_config()->tau(), 0.5);
  EXPECT_TRUE(config.eva_config()->whiten());
  EXPECT_FALSE(config.eva_config()->adjust_scaling_factors());
  read(R"({"peft_type": "LORA", "eva_config": {"sigma": 1}})");
  EXPECT_NE(warnings.text.find("eva_config.sigma"), std::string::npos);
  EXPECT_THROW(
      read(R"({"peft_type": "LORA", "eva_config": {"rho": "x"}})"), DataError);
  EXPECT_THROW(
      read(R"({"peft_type": "LORA", "corda_config": "ipm"})"), DataError);
}

TEST_F(InitializerFiles, AConfigurationOfAnotherInitializerIsWarnedOf) {
  Warnings warnings;
  get_peft_model(*model_, config("olora").eva_config(EvaConfig()));
  EXPECT_NE(
      warnings.text.find("`eva_config` is specified but will be ignored"),
      std::string::npos);
}

} // namespace
} // namespace torchlora
