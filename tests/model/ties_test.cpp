// Weights that two modules share: what would change both is refused.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/clippable_linear.h>
#include <torchlora/nn/conv.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/nn/multihead_attention.h>
#include <torchlora/nn/pretrained.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// A head that is tied to the table in one of the ways there are.
enum class TieKind { kRegistered, kAssigned, kMemory, kView };

/// A layer of user code that computes with a tensor given to it.
struct HeadImpl : torch::nn::Module {
  explicit HeadImpl(const Tensor& weight_)
      : weight(register_parameter("weight", weight_)) {}
  Tensor forward(const Tensor& x) {
    return at::linear(x, weight);
  }
  Tensor weight;
};

struct NetImpl : torch::nn::Module {
  explicit NetImpl(TieKind kind) {
    to(test::test_device()); // a tie does not outlive a move
    if (kind == TieKind::kRegistered) {
      same =
          register_module("same", test::make_module<HeadImpl>(table->weight));
    } else if (kind == TieKind::kAssigned) {
      head->weight = table->weight;
    } else if (kind == TieKind::kMemory) {
      head->weight.set_data(table->weight.detach());
    } else {
      head->weight = table->weight.t().detach().t();
    }
  }
  Tensor hidden(const Tensor& ids) {
    return mid(table(ids)).tanh();
  }
  Tensor forward(const Tensor& ids) {
    const auto x = hidden(ids);
    return same ? same->forward(x) : head(x);
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
  nn::Linear mid = register_module("mid", nn::Linear(8, 8));
  nn::Linear head = register_module(
      "head",
      nn::Linear(torch::nn::LinearOptions(8, 9).bias(false)));
  std::shared_ptr<HeadImpl> same;
};

LoraConfig config(std::vector<std::string> targets) {
  return LoraConfig(2).target_modules(std::move(targets));
}

std::vector<Tensor> values_of(const torch::nn::Module& model) {
  std::vector<Tensor> values;
  for (const auto& item : model.named_parameters()) {
    values.push_back(item.value().detach().clone());
  }
  return values;
}

void expect_equal(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_TRUE(torch::equal(a[i], b[i]));
  }
}

class TiedMerge : public testing::TestWithParam<TieKind> {
 protected:
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  std::shared_ptr<NetImpl> model_ = test::make_module<NetImpl>(GetParam());
  Tensor ids_ = test::randint(0, 9, {3, 5});
};

TEST_P(TiedMerge, IsRefusedAndNothingChanges) {
  auto peft = get_peft_model(*model_, config({"table", "mid"}));
  randomize(peft);
  const auto adapted = run();
  const auto before = values_of(*model_);
  const auto text = refusal([&] { peft.merge_adapter(); });
  EXPECT_NE(text.find("\"table\""), std::string::npos) << text;
  EXPECT_NE(text.find("replace_module"), std::string::npos) << text;
  EXPECT_THROW(peft.merge_and_unload(), c10::ValueError);
  expect_equal(values_of(*model_), before);
  EXPECT_TRUE(torch::equal(run(), adapted));
}

// The way out that the refusal names.
TEST_P(TiedMerge, WorksOnceTheHeadHasAWeightOfItsOwn) {
  const auto value = model_->table->weight.detach().clone();
  if (model_->same) {
    model_->same = test::make_module<HeadImpl>(value);
    model_->replace_module("same", model_->same);
  } else {
    model_->head = model_->replace_module(
        "head",
        test::on_device(
            nn::Linear(torch::nn::LinearOptions(8, 9).bias(false))));
    torch::NoGradGuard no_grad;
    model_->head->weight.copy_(value);
  }
  auto peft = get_peft_model(*model_, config({"table", "mid"}));
  randomize(peft);
  const auto adapted = run();
  peft.merge_adapter(MergeOptions().safe_merge(true));
  EXPECT_LT(difference(run(), adapted), 1e-5);
  EXPECT_GT(difference(model_->table->weight, value), 1e-2);
  EXPECT_TRUE(torch::equal(
      model_->same ? model_->same->weight : model_->head->weight, value));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    TiedMerge,
    testing::Values(
        TieKind::kRegistered,
        TieKind::kAssigned,
        TieKind::kMemory,
        TieKind::kView));

/// A layer whose registered tensors `tie` makes another layer's.
template <class Layer>
void expect_refused(
    Layer layer,
    Layer other,
    const std::function<void(Layer&, Layer&)>& tie,
    const LoraConfig& adapter) {
  tie(layer, other);
  auto model = std::make_shared<torch::nn::Module>("model");
  model->register_module("layer", layer);
  model->register_module("other", other);
  auto peft = get_peft_model(*model, adapter);
  randomize(peft);
  const auto before = values_of(*model);
  const auto text = refusal([&] { peft.merge_and_unload(); });
  EXPECT_NE(text.find("\"layer"), std::string::npos) << text;
  EXPECT_NE(text.find("\"other"), std::string::npos) << text;
  expect_equal(values_of(*model), before);
}

TEST(TiedLayers, OfEveryKindAreRefused) {
  const auto weight = [](auto& layer, auto& other) {
    other->weight = layer->weight;
  };
  const auto adapter = config({"layer"});
  expect_refused<nn::Conv1d>(
      nn::Conv1d(torch::nn::Conv1dOptions(4, 5, 3)),
      nn::Conv1d(torch::nn::Conv1dOptions(4, 5, 3)),
      [](auto& layer, auto& other) {
        other->weight.set_data(layer->weight.detach());
      },
      adapter);
  expect_refused<nn::Linear>(
      nn::Linear(4, 5),
      nn::Linear(4, 5),
      [](auto& layer, auto& other) {
        other->bias.set_data(layer->bias.detach());
      },
      config({"layer"}).lora_bias(true));
  expect_refused<nn::Linear>(
      nn::Linear(4, 5), nn::Linear(4, 5), weight, adapter);
  expect_refused<nn::ClippableLinear>(
      nn::ClippableLinear(4, 5),
      nn::ClippableLinear(4, 5),
      [](auto& layer, auto& other) {
        other->linear->weight = layer->linear->weight;
      },
      adapter);
  expect_refused<nn::MultiheadAttention>(
      nn::MultiheadAttention(4, 2),
      nn::MultiheadAttention(4, 2),
      [](auto& layer, auto& other) {
        other->out_proj->weight = layer->out_proj->weight;
        other->in_proj_weight.set_data(layer->in_proj_weight.detach());
      },
      adapter);
}

/// Two layers whose weights are parts of one buffer.
std::shared_ptr<torch::nn::Module> parts_of_one(
    const Tensor& first,
    const Tensor& second) {
  auto model = std::make_shared<torch::nn::Module>("model");
  for (const auto& [name, weight] :
       NamedTensors{{"first", first}, {"second", second}}) {
    auto layer = model->register_module(
        name,
        nn::Linear(torch::nn::LinearOptions(weight.size(1), weight.size(0))
                       .bias(false)));
    layer->weight.set_data(weight);
  }
  return model;
}

// As the halves of a fused gate and up projection.
TEST(StridedWeights, OfOneBufferAreApartWhereNoElementIsShared) {
  const auto buffer = test::randn({12, 10});
  const auto rows = [&](int64_t first) {
    return buffer.slice(0, first, std::nullopt, 2);
  };
  const auto columns = [&](int64_t first) {
    return buffer.slice(1, first, std::nullopt, 2);
  };
  for (const auto& [first, second] :
       {std::pair(rows(0), rows(1)),
        std::pair(columns(0), columns(1)),
        std::pair(columns(0).t(), columns(1)),
        std::pair(buffer.narrow(1, 0, 5), buffer.narrow(1, 5, 5))}) {
    const auto model = parts_of_one(first, second);
    const auto before = second.clone();
    auto peft = get_peft_model(*model, config({"first"}));
    randomize(peft);
    const auto expected =
        first + peft.layers()[0].second->get_delta_weight("default");
    peft.merge_and_unload();
    EXPECT_LT(difference(first, expected), 1e-5);
    EXPECT_TRUE(torch::equal(second, before));
    EXPECT_NO_THROW(
        get_peft_model(*model, config({"first"}).init_lora_weights("pissa")));
    EXPECT_TRUE(torch::equal(second, before));
  }
}

TEST(StridedWeights, ThatShareElementsAreTied) {
  const auto buffer = test::randn({12, 10});
  // The second begins behind the first numel() elements of the other.
  const auto wide = buffer.slice(1, 0, std::nullopt, 5);
  for (const auto& [first, second] :
       {std::pair(wide, buffer.narrow(0, 6, 6)),
        std::pair(buffer.narrow(0, 6, 6), wide),
        std::pair(buffer, buffer.slice(1, 1, std::nullopt, 3)),
        std::pair(buffer.t(), buffer.narrow(0, 11, 1))}) {
    const auto model = parts_of_one(first, second);
    const auto before = buffer.clone();
    auto peft = get_peft_model(*model, config({"first"}));
    randomize(peft);
    const auto text = refusal([&] { peft.merge_adapter(); });
    EXPECT_NE(text.find("\"second.weight\""), std::string::npos) << text;
    peft.unload();
    for (const auto* name : {"pissa", "olora"}) {
      EXPECT_NE(refusal(*model, config({"first"}).init_lora_weights(name)), "");
    }
    EXPECT_NE(
        refusal(*model, config({"first"}).modules_to_save({"second"})), "");
    EXPECT_NE(refusal(*model, config({"first"}).ensure_weight_tying(true)), "");
    EXPECT_TRUE(torch::equal(buffer, before));
  }
}

TEST(TiedLayers, ABufferAndAnAssignedWeightAreTies) {
  const auto layer = [] {
    return nn::Conv1d(torch::nn::Conv1dOptions(4, 5, 3));
  };
  auto model = std::make_shared<torch::nn::Module>("model");
  auto first = model->register_module("first", layer());
  auto second = model->register_module("second", layer());
  second->weight = first->weight; // the registered parameter is another
  const auto expect = [&](const char* name) {
    auto peft = get_peft_model(*model, config({"first"}));
    const auto text = refusal([&] { peft.merge_adapter(); });
    EXPECT_NE(text.find(name), std::string::npos) << text;
    peft.unload();
  };
  expect("\"second.weight\"");
  second->weight = test::randn({5, 4, 3});
  model->register_buffer("kept", first->weight.detach());
  expect("\"kept\"");
}

TEST(TiedLayers, ALayerInsideOfAnAdaptableOneIsNotTiedToIt) {
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("proj", nn::ClippableLinear(4, 4));
  model->register_module("fc", nn::Linear(4, 4));
  get_peft_model(
      *model,
      LoraConfig(2).target_modules({"fc"}).modules_to_save({"proj.linear"}));
  EXPECT_TRUE(model->named_parameters()["proj.linear.weight"].requires_grad());
}

TEST(TiedLayers, ABiasTiedByMemoryOnlyIsNotTrained) {
  auto model = std::make_shared<torch::nn::Module>("model");
  auto first = model->register_module("first", nn::Linear(4, 5));
  auto second = model->register_module("second", nn::Linear(4, 5));
  second->bias.set_data(first->bias.detach());
  for (const auto* bias : {"all", "lora_only"}) {
    const auto text = refusal(*model, config({"first"}).bias(bias));
    EXPECT_NE(text.find("second.bias"), std::string::npos) << text;
  }
}

/// As Gemma 4: the head is the table.
struct TableHeadImpl : torch::nn::Module, nn::CausalLM {
  Tensor hidden_states(const Tensor& ids, const Tensor&) override {
    return table(ids);
  }
  nn::LmHead lm_head() const override {
    return {table->weight};
  }
  torch::nn::Module& module() override {
    return *this;
  }
  std::string model_type() const override {
    return "test";
  }
  std::string architecture() const override {
    return "Test";
  }
  std::string name_or_path() const override {
    return "";
  }
  nn::Embedding table = register_module("table", nn::Embedding(9, 8));
};

TEST(TiedLayers, AHeadThatIsTheTableIsRefused) {
  auto model = test::make_module<TableHeadImpl>();
  auto peft = get_peft_model(*model, config({"table"}));
  randomize(peft);
  const auto weight = model->table->weight;
  const auto value = weight.clone();
  const auto text = refusal([&] { peft.merge_and_unload(); });
  EXPECT_NE(text.find("output head"), std::string::npos) << text;
  EXPECT_TRUE(model->table->weight.is_same(weight));
  EXPECT_TRUE(torch::equal(weight, value));
  EXPECT_EQ(peft.layers().size(), 1U);
}

/// Refusals of an initializer that changes the base come before the first
/// decomposition.
TEST(BaseChangingInitializers, AreRefusedBeforeTheyRun) {
  auto model = test::make_module<NetImpl>(TieKind::kMemory);
  const auto before = values_of(*model);
  int progress = 0;
  const auto options = InjectOptions().init_progress(
      [&](size_t, size_t, const std::string&) { ++progress; });
  const auto changing = [&](std::vector<std::string> targets) {
    return config(std::move(targets)).init_lora_weights("pissa");
  };
  // `mid` comes before the tied head.
  EXPECT_THROW(
      get_peft_model(*model, changing({"mid", "head"}), "default", options),
      c10::ValueError);
  EXPECT_EQ(progress, 0);
  expect_equal(values_of(*model), before);

  struct ChainImpl : torch::nn::Module {
    nn::Linear a = register_module("a", nn::Linear(4, 4));
    nn::Linear b = register_module("b", nn::Linear(4, 4));
  };
  auto chain = test::make_module<ChainImpl>();
  auto peft = get_peft_model(*chain, config({"b"}));
  const auto values = values_of(*chain);
  const auto text = refusal(
      [&] { peft.add_adapter("second", changing({"a", "b"}), options); });
  EXPECT_NE(text.find("'default'"), std::string::npos) << text;
  EXPECT_EQ(progress, 0);
  expect_equal(values_of(*chain), values);
  EXPECT_EQ(peft.layers().size(), 1U);
  EXPECT_NO_THROW(peft.add_adapter("second", changing({"a"}), options));
  EXPECT_EQ(progress, 1);
}

} // namespace
} // namespace torchlora
