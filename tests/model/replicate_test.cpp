// layer_replication; peft's adapters and outputs are
// by tests/reference/make_replication_goldens.py.
#include <filesystem>
#include <fstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/adapter_files/adapter_config.h>
#include <torchlora/adapter_files/hotswap.h>
#include <torchlora/error.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora {
namespace {

namespace fs = std::filesystem;
using at::Tensor;

struct BlockImpl : torch::nn::Cloneable<BlockImpl> {
  BlockImpl() {
    BlockImpl::reset();
  }
  void reset() override {
    up = register_module("up", nn::Linear(6, 8));
    down = register_module("down", nn::Linear(8, 6));
    norm = register_module(
        "norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({6})));
    shift = register_buffer("shift", test::zeros({6}));
  }
  Tensor forward(const Tensor& x) {
    return x + down(up(norm(x)).tanh()) + shift;
  }
  nn::Linear up{nullptr}, down{nullptr};
  torch::nn::LayerNorm norm{nullptr};
  Tensor shift;
};

struct InnerImpl : torch::nn::Module {
  explicit InnerImpl(int64_t size) {
    for (int64_t i = 0; i < size; ++i) {
      layers->push_back(test::make_module<BlockImpl>());
    }
    register_module("layers", layers);
  }
  Tensor forward(Tensor x) {
    for (const auto& layer : *layers) {
      x = layer->as<BlockImpl>()->forward(x);
    }
    return x;
  }
  torch::nn::ModuleList layers;
};

/// A Llama's names.
struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t size = 4)
      : model(register_module("model", test::make_module<InnerImpl>(size))) {}
  Tensor forward(const Tensor& x) {
    return head(model->forward(x));
  }
  std::shared_ptr<InnerImpl> model;
  nn::Linear head = register_module("head", nn::Linear(6, 3));
};

const LoraConfig::LayerRanges kRanges{{0, 3}, {1, 4}};

LoraConfig config() {
  return LoraConfig(2)
      .target_modules({"up", "down"})
      .layer_replication(kRanges);
}

class LayerReplication : public testing::Test {
 protected:
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(x_);
  }
  BlockImpl& block(size_t i) {
    return *model_->model->layers[i]->as<BlockImpl>();
  }
  /// Of the layers 0, 1, 2, 1, 2, 3.
  Tensor run_stacked() {
    torch::NoGradGuard no_grad;
    auto x = x_;
    for (const size_t i : {0, 1, 2, 1, 2, 3}) {
      x = block(i).forward(x);
    }
    return model_->head(x);
  }
  void expect_as_before() {
    EXPECT_EQ(model_->model->layers->size(), 4U);
    EXPECT_EQ(model_->named_parameters().keys(), names_);
    EXPECT_TRUE(torch::equal(run(), base_));
    EXPECT_TRUE(block(0).up->weight.requires_grad());
  }

  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>();
  std::vector<std::string> names_ = model_->named_parameters().keys();
  Tensor x_ = test::randn({5, 6});
  Tensor base_ = run();
  const fs::path folder_ = fs::path(testing::TempDir()) / "replication";
};

TEST_F(LayerReplication, StacksLayersOverTheSameWeightsWithTheirOwnAdapters) {
  model_->eval();
  block(1).shift.fill_(0.25);
  const auto expected = run_stacked();
  const auto* list = model_->model->layers.get();
  const auto all = [&] {
    int64_t count = 0;
    for (const auto& parameter : model_->parameters()) {
      count += parameter.numel();
    }
    return count;
  }();
  auto peft = get_peft_model(*model_, config());
  EXPECT_EQ(model_->model->layers.get(), list);
  EXPECT_EQ(model_->model->layers->size(), 6U);
  EXPECT_FALSE(model_->model->layers->is_training());
  EXPECT_TRUE(torch::equal(run(), expected));
  EXPECT_EQ(peft.layers().size(), 12U);
  EXPECT_EQ(peft.layers()[6].first, "model.layers.3.up");
  for (const auto& item : model_->named_parameters()) {
    EXPECT_EQ(
        item.value().requires_grad(),
        item.key().find("lora_") != std::string::npos)
        << item.key();
  }
  EXPECT_EQ(block(1).up->weight.data_ptr(), block(3).up->weight.data_ptr());
  EXPECT_EQ(block(2).norm->bias.data_ptr(), block(4).norm->bias.data_ptr());
  EXPECT_NE(block(1).shift.data_ptr(), block(3).shift.data_ptr());
  const auto [trainable, total] = peft.get_nb_trainable_parameters();
  EXPECT_EQ(trainable, 6 * 2 * 2 * (6 + 8));
  EXPECT_EQ(total - trainable, all);

  randomize(peft, "default", 0.4);
  const auto adapted = run();
  EXPECT_GT(difference(adapted, expected), 1e-2);
  {
    const auto guard = peft.disable_adapter();
    EXPECT_TRUE(torch::equal(run(), expected));
  }
  model_->forward(x_).square().sum().backward();
  for (const auto& parameter : peft.trainable_parameters()) {
    EXPECT_GT(parameter.grad().abs().max().item<double>(), 0);
  }
  peft.unload();
  EXPECT_EQ(model_->model->layers->size(), 6U);
  EXPECT_TRUE(torch::equal(run(), expected));
}

TEST_F(LayerReplication, RefusesAMerge) {
  auto peft = get_peft_model(*model_, config());
  randomize(peft, "default", 0.4);
  const auto adapted = run();
  for (const auto& merge : std::vector<std::function<void()>>{
           [&] { peft.merge_adapter(); }, [&] { peft.merge_and_unload(); }}) {
    const auto text = refusal(merge);
    EXPECT_NE(
        text.find(
            "Cannot merge LORA layers when base model layers are replicated"),
        std::string::npos)
        << text;
    EXPECT_TRUE(torch::equal(run(), adapted));
  }
}

TEST_F(LayerReplication, IsInTheFileOfEveryAdapterAndComesBeforeItIsLoaded) {
  fs::remove_all(folder_);
  auto peft = get_peft_model(*model_, config());
  peft.add_adapter("second", LoraConfig(3).target_modules({"down"}));
  EXPECT_EQ(model_->model->layers->size(), 6U);
  randomize(peft, "default", 0.4);
  const auto first = run();
  peft.set_adapter("second");
  randomize(peft, "second", 0.4);
  const auto second = run();
  peft.save_pretrained(folder_);
  const auto saved = load_adapter_config(folder_ / "second");
  EXPECT_EQ(saved.layer_replication(), kRanges);
  // The model that it is, in which nothing is stacked again.
  EXPECT_NO_THROW(peft.load_adapter(folder_, "third"));
  EXPECT_NO_THROW(hotswap_adapter(peft, folder_, "third"));
  EXPECT_THROW(
      peft.add_adapter("bad", config().layer_replication({{0, 2}})),
      c10::ValueError);
  EXPECT_EQ(model_->model->layers->size(), 6U);

  auto other = test::make_module<NetImpl>();
  {
    torch::NoGradGuard no_grad;
    other->head->weight.copy_(model_->head->weight);
    other->head->bias.copy_(model_->head->bias);
    for (const auto& [to, from] :
         {std::pair(0, 0), std::pair(1, 1), std::pair(2, 2), std::pair(3, 5)}) {
      auto& target = *other->model->layers[static_cast<size_t>(to)];
      const auto& source = block(static_cast<size_t>(from));
      target.as<BlockImpl>()->up->weight.copy_(source.up->weight);
      target.as<BlockImpl>()->up->bias.copy_(source.up->bias);
      target.as<BlockImpl>()->down->weight.copy_(source.down->weight);
      target.as<BlockImpl>()->down->bias.copy_(source.down->bias);
    }
  }
  auto loaded = PeftModel::from_pretrained(*other, folder_ / "second");
  torch::NoGradGuard no_grad;
  EXPECT_LT(difference(other->forward(x_), second), 1e-6);
  loaded.load_adapter(folder_, "first");
  loaded.set_adapter("first");
  EXPECT_LT(difference(other->forward(x_), first), 1e-6);
}

TEST_F(LayerReplication, AnErrorLeavesTheModelAsItWas) {
  for (const auto& bad :
       {config().target_modules({"nothing"}),
        config().lora_dropout(2),
        config().layer_replication({{0, 5}}),
        config().layer_replication({{-1, 2}}),
        config().layer_replication({{2, 2}}),
        config().init_lora_weights("pissa"),
        config().bias("lora_only"),
        config().modules_to_save({"norm"})}) {
    EXPECT_THROW(get_peft_model(*model_, bad), c10::ValueError);
    expect_as_before();
  }
  EXPECT_THROW(inject_adapter(*model_, config().r(0)), c10::ValueError);
  expect_as_before();
  fs::remove_all(folder_);
  auto small = test::make_module<NetImpl>();
  get_peft_model(*small, config().target_modules({"up"}))
      .save_pretrained(folder_);
  std::vector<std::pair<std::string, Tensor>> tensors;
  {
    const io::SafetensorsFile file(folder_ / "adapter_model.safetensors");
    for (const auto& key : file.keys()) {
      tensors.emplace_back(key, file.tensor(key).clone());
    }
  }
  tensors.pop_back();
  io::save_safetensors(folder_ / "adapter_model.safetensors", tensors);
  EXPECT_THROW(PeftModel::from_pretrained(*model_, folder_), DataError);
  expect_as_before();
  EXPECT_EQ(inject_adapter(*model_, config()).size(), 12U);
}

TEST_F(LayerReplication, ModelsThatDoNotAllowItAreToldWhy) {
  struct FixedImpl : torch::nn::Module {
    nn::Linear up = register_module("up", nn::Linear(6, 6));
  };
  struct ConstructedImpl : torch::nn::Cloneable<ConstructedImpl> {
    nn::Linear up = register_module("up", nn::Linear(6, 6));
    void reset() override {}
  };
  struct SlicedImpl : nn::Adaptable<torch::nn::LinearImpl> {
    using Adaptable::Adaptable;
  };
  const auto why = [](const std::shared_ptr<torch::nn::Module>& layer,
                      const char* name) {
    auto model = std::make_shared<torch::nn::Module>("model");
    auto up = nn::Linear(6, 6);
    model->register_module("up", up);
    if (layer) {
      torch::nn::ModuleList list;
      list->push_back(layer);
      model->register_module(name, list);
    }
    const auto text = refusal([&] {
      get_peft_model(
          *model,
          LoraConfig(2).target_modules({"up"}).layer_replication(
              {{0, 1}, {0, 1}}));
    });
    EXPECT_EQ(model->named_modules().contains("up.base_layer"), text.empty());
    return text;
  };
  const auto expect = [](const std::string& text, const char* part) {
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  expect(why(nullptr, ""), "Could not locate the layers attribute");
  expect(why(test::make_module<BlockImpl>(), "blocks"), "Could not locate");
  expect(why(test::make_module<FixedImpl>(), "layers"), "cannot be replicated");
  expect(why(test::make_module<FixedImpl>(), "layers"), "clone()");
  expect(why(test::make_module<ConstructedImpl>(), "h"), "reset()");
  expect(why(test::make_module<SlicedImpl>(6, 6), "h"), "Self");
  auto tied = test::make_module<BlockImpl>();
  tied->up->weight = test::randn({8, 6});
  expect(why(tied, "h"), "\"up\" computes with a weight");
  EXPECT_EQ(why(test::make_module<BlockImpl>(), "h"), "");
}

// The adapters are drawn as peft draws them.
TEST_F(LayerReplication, DrawsNothing) {
  const auto next = [this](const LoraConfig& config) {
    torch::manual_seed(3);
    get_peft_model(*model_, config).unload();
    return test::rand({1}).item<float>();
  };
  const auto one = config().target_modules({"head"}).layer_replication({});
  const auto expected = next(one);
  EXPECT_EQ(next(LoraConfig(one).layer_replication(kRanges)), expected);
}

TEST_F(LayerReplication, ABertsLayersAreFound) {
  auto model = std::make_shared<torch::nn::Module>("model");
  auto bert =
      model->register_module("bert", std::make_shared<torch::nn::Module>("b"));
  auto encoder = bert->register_module(
      "encoder", std::make_shared<torch::nn::Module>("encoder"));
  torch::nn::ModuleList list;
  list->push_back(test::make_module<BlockImpl>());
  encoder->register_module("layer", list);
  auto peft = get_peft_model(
      *model, config().layer_replication({{0, 1}, {0, 1}, {0, 1}}));
  EXPECT_EQ(list->size(), 3U);
  EXPECT_EQ(peft.layers().back().first, "bert.encoder.layer.2.down");
}

TEST(ReplicationGoldens, AnAdapterOfPeftLoadsAndComputesAsThere) {
  const auto folder = fs::path(TORCHLORA_TEST_DATA) / "lora" / "replication";
  const io::SafetensorsFile reference(folder / "reference.safetensors");
  auto model = test::make_module<NetImpl>();
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters()) {
    item.value().copy_(reference.tensor("base." + item.key()));
  }
  const auto x = test::on_device(reference.tensor("x"));
  EXPECT_LT(
      difference(
          model->forward(x), test::on_device(reference.tensor("base_output"))),
      1e-5);
  auto peft = PeftModel::from_pretrained(*model, folder);
  EXPECT_EQ(peft.peft_config().layer_replication(), kRanges);
  const auto expected = reference.tensor("output");
  EXPECT_LT(
      difference(model->forward(x), expected),
      1e-5 * expected.abs().max().item<double>());
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(
        difference(
            model->forward(x),
            test::on_device(reference.tensor("disabled_output"))),
        1e-5 * expected.abs().max().item<double>());
  }
  const auto saved = fs::path(testing::TempDir()) / "replication_saved";
  peft.save_pretrained(saved);
  const io::SafetensorsFile ours(saved / "adapter_model.safetensors");
  const io::SafetensorsFile theirs(folder / "adapter_model.safetensors");
  EXPECT_EQ(ours.keys(), theirs.keys());
}

TEST(ReplicationGoldens, AFileWithOtherRangesIsADataError) {
  const auto folder = fs::path(testing::TempDir()) / "replication_bad";
  fs::create_directories(folder);
  for (const char* bad : {"[[0, 1, 2]]", "[[0.5, 1]]", "3", "[\"a\"]"}) {
    std::ofstream(folder / "adapter_config.json")
        << R"({"peft_type": "LORA", "target_modules": ["up"],)"
        << "\"layer_replication\": " << bad << "}";
    EXPECT_THROW(load_adapter_config(folder), DataError) << bad;
  }
}

} // namespace
} // namespace torchlora
