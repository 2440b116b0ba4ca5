// Tensors of the base model that an adapter trains: modules_to_save, bias, and
// the tables in peft's files (tests/reference/make_owned_goldens.py); and the
// same model with adapters by older versions (make_version_goldens.py).
#include <filesystem>
#include <set>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

/// Modules that are trained whole need not be torchlora's.
template <class Head>
struct NetOf : torch::nn::Module {
  nn::Embedding embed_tokens =
      register_module("embed_tokens", nn::Embedding(12, 6));
  nn::Linear up = register_module("up", nn::Linear(6, 8));
  torch::nn::LayerNorm norm = register_module(
      "norm",
      torch::nn::LayerNorm(torch::nn::LayerNormOptions({8})));
  Head head = register_module("head", Head(8, 4));
  torch::nn::Linear score = register_module("score", torch::nn::Linear(4, 3));

  Tensor forward(const Tensor& ids) {
    return score(head(norm(up(embed_tokens(ids)).tanh())));
  }
};
using NetImpl = NetOf<torch::nn::Linear>;

class SavedModulesTest : public testing::Test {
 protected:
  SavedModulesTest() {
    torch::NoGradGuard no_grad;
    for (auto& item : model_->named_parameters()) {
      item.value().copy_(reference_.tensor("base." + item.key()));
    }
    base_ = run();
  }
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  LoraConfig config() {
    return LoraConfig(2).target_modules({"up"});
  }

  static inline const fs::path folder_ =
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "owned";
  io::SafetensorsFile reference_{folder_ / "reference.safetensors"};
  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>();
  Tensor ids_ = test::on_device(reference_.tensor("ids"));
  Tensor base_;
};

class SavedModuleGoldens : public SavedModulesTest,
                           public testing::WithParamInterface<const char*> {};

TEST_P(SavedModuleGoldens, AreThoseOfPeft) {
  const std::string name = GetParam();
  EXPECT_LT(difference(base_, reference_.tensor("base.output")), 1e-6);
  auto peft = PeftModel::from_pretrained(
      *model_, folder_ / name, "default", LoadOptions().is_trainable(true));
  const auto output = model_->forward(ids_);
  const auto expected = reference_.tensor(name + ".output");
  EXPECT_LT(difference(output, expected), 1e-5);
  EXPECT_GT(difference(base_, expected), 1e-2);

  output.square().sum().backward();
  expect_gradients(peft, reference_, name);
  std::set<std::string> trained;
  for (const auto& item : peft.state_dict()) {
    trained.insert(item.key());
  }
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(run(), base_), 1e-6);
  }
  EXPECT_LT(difference(run(), output), 1e-6);

  // What is saved has peft's keys, and loads.
  const auto saved = fs::path(testing::TempDir()) / "owned_adapter";
  peft.save_pretrained(saved);
  const io::SafetensorsFile ours(saved / "adapter_model.safetensors");
  const io::SafetensorsFile theirs(
      folder_ / name / "adapter_model.safetensors");
  for (const auto& key : theirs.keys()) {
    EXPECT_TRUE(
        ours.contains(key) || key.ends_with("original_module.bias") ||
        key.ends_with("modules_to_save.bias"))
        << key;
  }
  EXPECT_EQ(
      std::set<std::string>(ours.keys().begin(), ours.keys().end()), trained);
  peft.unload();
  EXPECT_LT(difference(run(), base_), 1e-6);
  auto loaded = PeftModel::from_pretrained(*model_, saved);
  EXPECT_LT(difference(run(), output), 1e-6);
  EXPECT_TRUE(loaded.trainable_parameters().empty());
  loaded.merge_and_unload();
  EXPECT_LT(difference(run(), output), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Cases,
    SavedModuleGoldens,
    testing::Values(
        "modules_to_save",
        "bias_all",
        "bias_lora_only",
        "bias_and_modules",
        "token_classification",
        "saved_table"));

class OldVersionFiles : public testing::TestWithParam<const char*> {};

template <class Linear>
void load_version(const char* version) {
  const auto folder =
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "versions" / version;
  const io::SafetensorsFile reference(folder / "reference.safetensors");
  auto model = test::make_module<NetOf<Linear>>();
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    item.value().copy_(reference.tensor("base." + item.key()));
  }
  auto peft = PeftModel::from_pretrained(*model, folder);
  const auto expected = reference.tensor("output");
  const auto ids = test::on_device(reference.tensor("ids"));
  EXPECT_LT(difference(model->forward(ids), expected), 1e-5);
  const auto saved = fs::path(testing::TempDir()) / "old_version";
  peft.save_pretrained(saved);
  peft.unload();
  EXPECT_GT(difference(model->forward(ids), expected), 1e-2);
  PeftModel::from_pretrained(*model, saved);
  EXPECT_LT(difference(model->forward(ids), expected), 1e-5);
}

TEST_P(OldVersionFiles, Load) {
  load_version<nn::Linear>(GetParam());
}

TEST_P(OldVersionFiles, LoadOntoUnmodifiedLayers) {
  load_version<torch::nn::Linear>(GetParam());
}

INSTANTIATE_TEST_SUITE_P(
    Versions,
    OldVersionFiles,
    testing::Values("0.10.0", "0.12.0", "0.14.0"));

TEST_F(SavedModulesTest, EachAdapterHasItsOwnAndGradientsAndOptimizersFollow) {
  auto peft = get_peft_model(*model_, config().modules_to_save({"head"}));
  EXPECT_LT(difference(run(), base_), 1e-6);
  EXPECT_EQ(peft.trainable_parameters().size(), 4U);
  torch::optim::SGD optimizer(peft.trainable_parameters(), 0.1);
  model_->forward(ids_).square().sum().backward();
  const auto gradient = model_->head->weight.grad().clone();
  optimizer.step();
  const auto first = run();

  // A copy of the base model's, not of the first adapter's.
  peft.add_adapter("second", config().modules_to_save({"head", "norm"}));
  peft.set_adapter("second");
  EXPECT_LT(difference(run(), base_), 1e-6);
  EXPECT_FALSE(model_->head->weight.grad().defined());
  disturb(peft);
  const auto second = run();
  peft.set_adapter("default");
  EXPECT_LT(difference(run(), first), 1e-6);
  EXPECT_TRUE(torch::equal(model_->head->weight.grad(), gradient));
  EXPECT_FALSE(model_->norm->weight.requires_grad());
  EXPECT_THROW(peft.set_adapter({"default", "second"}), c10::ValueError);
  EXPECT_EQ(peft.active_adapters(), std::vector<std::string>{"default"});

  const auto folder = fs::path(testing::TempDir()) / "owned_two";
  peft.save_pretrained(folder);   // the second is not the active one
  peft.delete_adapter("default"); // the second becomes active
  EXPECT_LT(difference(run(), second), 1e-6);
  peft.unload();
  EXPECT_LT(difference(run(), base_), 1e-6);
  auto loaded = PeftModel::from_pretrained(*model_, folder / "second");
  EXPECT_LT(difference(run(), second), 1e-6);
  loaded.load_adapter(folder, "first");
  loaded.set_adapter("first");
  EXPECT_LT(difference(run(), first), 1e-6);
}

// A forward whose backward comes after a look at the base model, as in DPO.
TEST_F(SavedModulesTest, BackwardAfterADisabledForwardIsRight) {
  auto peft = get_peft_model(*model_, config().modules_to_save({"head"}));
  disturb(peft);
  model_->forward(ids_).square().sum().backward();
  const auto expected = model_->head->weight.grad().clone();
  model_->zero_grad();
  const auto loss = model_->forward(ids_).square().sum();
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(difference(run(), base_), 1e-6);
  }
  loss.backward();
  EXPECT_TRUE(torch::equal(model_->head->weight.grad(), expected));
}

// set_requires_grad holds until the next set_adapter.
TEST_F(SavedModulesTest, GuardsKeepWhatRequiresGradients) {
  const auto saves =
      config().modules_to_save({"head"}).bias("all").trainable_token_indices(
          {{"embed_tokens", {1, 4}}});
  auto peft = get_peft_model(*model_, saves);
  model_->eval();
  const auto trainable = [&] {
    std::set<std::string> names;
    for (const auto& item : model_->named_parameters()) {
      if (item.value().requires_grad()) {
        names.insert(item.key());
      }
    }
    return names;
  };
  const auto expect_kept = [&] {
    const auto before = trainable();
    const auto of_adapter = [&](const char* name) {
      std::vector<bool> result;
      for (const auto& item : peft.state_dict(name)) {
        result.push_back(item.value().requires_grad());
      }
      return result;
    };
    const auto first = of_adapter("default");
    {
      const auto guard = peft.disable_adapter();
      EXPECT_EQ(of_adapter("default"), first);
    }
    EXPECT_EQ(trainable(), before);
    {
      const auto guard = peft.mixed_batch({"__base__", "__base__"});
    }
    EXPECT_EQ(trainable(), before);
    peft.add_adapter("second", saves);
    EXPECT_EQ(trainable(), before);
    peft.set_requires_grad({"second"});
    const auto second = of_adapter("second");
    EXPECT_NE(second, std::vector<bool>(second.size(), false));
    {
      const auto guard = peft.disable_adapter();
    }
    EXPECT_EQ(of_adapter("second"), second);
    EXPECT_EQ(of_adapter("default"), first);
    peft.delete_adapter("second");
    EXPECT_EQ(trainable(), before);
  };
  EXPECT_TRUE(trainable().contains("head.weight"));
  EXPECT_TRUE(trainable().contains("score.bias"));
  expect_kept();
  peft.set_requires_grad({"default"}, false);
  EXPECT_EQ(trainable(), std::set<std::string>());
  expect_kept();
  peft.set_adapter("default");
  EXPECT_TRUE(trainable().contains("head.weight"));
}

TEST_F(SavedModulesTest, FollowTheModelToAnotherDtype) {
  auto peft = get_peft_model(*model_, config().modules_to_save({"head"}));
  disturb(peft);
  const auto adapted = run();
  model_->to(torch::kDouble);
  EXPECT_LT(difference(run(), adapted), 1e-5);
  const auto guard = peft.disable_adapter();
  EXPECT_EQ(model_->head->weight.scalar_type(), torch::kDouble);
  EXPECT_LT(difference(run(), base_), 1e-5);
}

// In peft ["q_proj"] also trains "xq_proj".
TEST_F(SavedModulesTest, NamesEndAtADot) {
  const auto text = refusal(*model_, config().modules_to_save({"ead"}));
  EXPECT_NE(text.find("'ead'"), std::string::npos) << text;
  EXPECT_EQ(
      get_peft_model(*model_, config()).trainable_parameters().size(), 2U);
}

TEST_F(SavedModulesTest, AModuleToSaveIsNotAdapted) {
  auto peft = get_peft_model(
      *model_,
      LoraConfig(2)
          .target_modules({"up", "embed_tokens"})
          .modules_to_save({"embed_tokens"}));
  EXPECT_EQ(peft.layers().size(), 1U);
  EXPECT_TRUE(model_->embed_tokens->weight.requires_grad());
  EXPECT_THROW(
      peft.add_adapter(
          "second",
          LoraConfig(2)
              .target_modules({"embed_tokens"})
              .modules_to_save({"up"})),
      c10::ValueError);
}

TEST_F(SavedModulesTest, ATiedModuleNeedsConsent) {
  struct TiedImpl : torch::nn::Module {
    nn::Embedding table = register_module("table", nn::Embedding(12, 6));
    nn::Linear up = register_module("up", nn::Linear(6, 6));
    std::shared_ptr<torch::nn::Module> head =
        register_module("head", std::make_shared<torch::nn::Module>("head"));
    torch::nn::Linear assigned = register_module(
        "assigned",
        torch::nn::Linear(torch::nn::LinearOptions(6, 12).bias(false)));
    TiedImpl() {
      head->register_parameter("weight", table->weight);
      assigned->weight = table->weight;
    }
  };
  auto model = test::make_module<TiedImpl>();
  auto tied = config().modules_to_save({"head"});
  EXPECT_THROW(get_peft_model(*model, tied), c10::ValueError);
  EXPECT_TRUE(model->up->weight.requires_grad());
  EXPECT_THROW( // its registered parameter is another tensor
      get_peft_model(
          *model,
          config().modules_to_save({"assigned"}).ensure_weight_tying(true)),
      c10::ValueError);
  get_peft_model(*model, tied.ensure_weight_tying(true));
  EXPECT_TRUE(model->table->weight.requires_grad());
}

TEST_F(SavedModulesTest, BadConfigurationsLeaveTheModelAlone) {
  for (const auto& bad :
       {config().bias("some"), config().bias("all").lora_bias(true)}) {
    EXPECT_THROW(get_peft_model(*model_, bad), c10::ValueError);
    EXPECT_TRUE(model_->head->weight.requires_grad());
  }
}

TEST_F(SavedModulesTest, AreMissedInAFile) {
  const auto folder = fs::path(testing::TempDir()) / "owned_missing";
  fs::remove_all(folder);
  fs::copy(folder_ / "modules_to_save", folder);
  const io::SafetensorsFile file(
      folder_ / "modules_to_save" / "adapter_model.safetensors");
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& key : file.keys()) {
    if (!key.ends_with("norm.weight")) {
      tensors.emplace_back(key, file.tensor(key));
    }
  }
  io::save_safetensors(folder / "adapter_model.safetensors", tensors);
  EXPECT_THROW(PeftModel::from_pretrained(*model_, folder), c10::Error);
  EXPECT_LT(difference(run(), base_), 1e-6);
}

} // namespace
} // namespace torchlora
