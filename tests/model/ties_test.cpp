// Weights that two modules share: what would change both is refused, or unties
// them first.
#include <sstream>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/registry.h>
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
  explicit NetImpl(TieKind kind, bool is_tied = true) {
    if (kind == TieKind::kRegistered) {
      same = register_module(
          "same",
          std::make_shared<HeadImpl>(
              is_tied ? table->weight : table->weight.detach().clone()));
    } else if (!is_tied) {
      return;
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

void randomize(const PeftModel& peft) {
  torch::NoGradGuard no_grad;
  for (const auto& [name, layer] : peft.layers()) {
    for (auto& tensor : layer->find_adapter("default")->tensors()) {
      tensor.normal_(0, 0.3);
    }
  }
}

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

class Untying : public testing::TestWithParam<TieKind> {
 protected:
  Tensor run() {
    torch::NoGradGuard no_grad;
    return model_->forward(ids_);
  }
  std::shared_ptr<NetImpl> model_ = std::make_shared<NetImpl>(GetParam());
  Tensor ids_ = torch::randint(0, 9, {3, 5});
};

TEST_P(Untying, TheAdaptedLayerGetsItsOwnAndTheOtherKeepsTheBases) {
  const auto names = model_->named_parameters().keys();
  const auto base = model_->table->weight.detach().clone();
  auto peft = get_peft_model(*model_, config({"table", "mid"}));
  randomize(peft);
  const auto adapted = run();
  const auto before = values_of(*model_);
  const auto text = refusal([&] { peft.merge_adapter(); });
  EXPECT_NE(text.find("\"table\""), std::string::npos) << text;
  EXPECT_NE(text.find("untie_weights"), std::string::npos) << text;
  EXPECT_THROW(peft.merge_and_unload(), c10::ValueError);
  expect_equal(values_of(*model_), before);

  peft.merge_adapter(/*safe_merge=*/true, {}, /*untie_weights=*/true);
  EXPECT_LT(difference(run(), adapted), 1e-5);
  EXPECT_GT(difference(model_->table->weight, base), 1e-2);
  EXPECT_TRUE(torch::equal(
      model_->same ? model_->same->weight : model_->head->weight, base));

  // The values come back, the tie does not.
  peft.unmerge_adapter();
  EXPECT_LT(difference(model_->table->weight, base), 1e-5);
  EXPECT_LT(difference(run(), adapted), 1e-5);
  peft.merge_adapter();
  EXPECT_LT(difference(run(), adapted), 1e-5);
  peft.merge_and_unload();
  EXPECT_LT(difference(run(), adapted), 1e-5);
  EXPECT_EQ(model_->named_parameters().keys(), names);
  EXPECT_TRUE(model_->named_parameters()["table.weight"].is_same(
      model_->table->weight));
}

TEST_P(Untying, AMergedModelIsSavedAsItIs) {
  auto peft = get_peft_model(*model_, config({"table", "head"}));
  randomize(peft);
  const auto adapted = run();
  peft.merge_and_unload(
      /*safe_merge=*/false, /*adapter_names=*/{}, /*untie_weights=*/true);
  EXPECT_LT(difference(run(), adapted), 1e-5);
  // The head's too, which was perhaps assigned past its registered parameter.
  for (const auto& [name, weight] :
       {std::pair("table.weight", model_->table->weight),
        std::pair("head.weight", model_->head->weight)}) {
    EXPECT_TRUE(torch::equal(model_->named_parameters()[name], weight));
  }
  std::stringstream stream;
  torch::save(model_, stream);
  auto loaded = std::make_shared<NetImpl>(GetParam(), /*is_tied=*/false);
  torch::load(loaded, stream);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(torch::equal(loaded->forward(ids_), run()));
}

TEST_P(Untying, AMergeThatFailsLeavesTheTie) {
  auto peft = get_peft_model(*model_, config({"table", "mid"}));
  randomize(peft);
  auto B = peft.layers()[1].second->find_adapter("default")->lora_B->weight;
  {
    torch::NoGradGuard no_grad;
    B[0][0] = NAN;
  }
  const auto& head = model_->same ? model_->same->weight : model_->head->weight;
  EXPECT_THROW(
      peft.merge_adapter(/*safe_merge=*/true, {}, /*untie_weights=*/true),
      c10::ValueError);
  EXPECT_THROW(
      peft.merge_and_unload(
          /*safe_merge=*/true, /*adapter_names=*/{}, /*untie_weights=*/true),
      c10::ValueError);
  torch::NoGradGuard no_grad;
  model_->table->weight.fill_(0.5);
  EXPECT_TRUE(torch::equal(head, torch::full({9, 8}, 0.5)));
  EXPECT_TRUE(model_->named_parameters()["table.base_layer.weight"].is_same(
      model_->table->weight));
}

INSTANTIATE_TEST_SUITE_P(
    Kinds,
    Untying,
    testing::Values(
        TieKind::kRegistered,
        TieKind::kAssigned,
        TieKind::kMemory,
        TieKind::kView));

/// A layer whose registered tensors `tie` makes another layer's.
template <class Layer>
void expect_untied(
    Layer layer,
    Layer other,
    const std::function<void(Layer&, Layer&)>& tie,
    const Tensor& x,
    const LoraConfig& adapter) {
  tie(layer, other);
  auto model = std::make_shared<torch::nn::Module>("model");
  model->register_module("layer", layer);
  model->register_module("other", other);
  const auto names = model->named_parameters().keys();
  const auto run = [&x](Layer& module) -> Tensor {
    torch::NoGradGuard no_grad;
    if constexpr (std::is_same_v<Layer, nn::MultiheadAttention>) {
      return std::get<0>(module(x, x, x));
    } else {
      return module(x);
    }
  };
  const auto base = run(other);
  auto peft = get_peft_model(*model, adapter);
  randomize(peft);
  const auto adapted = run(layer);
  EXPECT_THROW(peft.merge_and_unload(), c10::ValueError);
  peft.merge_and_unload(
      /*safe_merge=*/false, /*adapter_names=*/{}, /*untie_weights=*/true);
  EXPECT_LT(difference(run(layer), adapted), 1e-4);
  EXPECT_GT(difference(run(layer), base), 1e-3);
  EXPECT_TRUE(torch::equal(run(other), base));
  EXPECT_EQ(model->named_parameters().keys(), names);
}

TEST(UntyingLayers, OfEveryKindAreUntied) {
  const auto weight = [](auto& layer, auto& other) {
    other->weight = layer->weight;
  };
  const auto adapter = config({"layer"});
  expect_untied<nn::Conv1d>(
      nn::Conv1d(torch::nn::Conv1dOptions(4, 5, 3)),
      nn::Conv1d(torch::nn::Conv1dOptions(4, 5, 3)),
      [](auto& layer, auto& other) {
        other->weight.set_data(layer->weight.detach());
      },
      torch::randn({2, 4, 6}),
      adapter);
  expect_untied<nn::Linear>(
      nn::Linear(4, 5),
      nn::Linear(4, 5),
      [](auto& layer, auto& other) {
        other->bias.set_data(layer->bias.detach());
      },
      torch::randn({2, 4}),
      config({"layer"}).lora_bias(true));
  expect_untied<nn::Linear>(
      nn::Linear(4, 5),
      nn::Linear(4, 5),
      weight,
      torch::randn({2, 4}),
      adapter);
  expect_untied<nn::ClippableLinear>(
      nn::ClippableLinear(4, 5),
      nn::ClippableLinear(4, 5),
      [](auto& layer, auto& other) {
        other->linear->weight = layer->linear->weight;
      },
      torch::randn({2, 4}),
      adapter);
  expect_untied<nn::MultiheadAttention>(
      nn::MultiheadAttention(4, 2),
      nn::MultiheadAttention(4, 2),
      [](auto& layer, auto& other) {
        other->out_proj->weight = layer->out_proj->weight;
        other->in_proj_weight.set_data(layer->in_proj_weight.detach());
      },
      torch::randn({3, 2, 4}),
      adapter);
}

/// Its tensor is neither a member `weight` nor known to a `rebind`.
struct HiddenImpl : torch::nn::Module, nn::Redirectable {
  Tensor forward(const Tensor& x) {
    return redirected_forward(x);
  }
  Tensor base_forward(const Tensor& x) override {
    return at::linear(x, kernel);
  }
  Tensor kernel = register_parameter("kernel", torch::randn({4, 4}));
};

TEST(UntyingLayers, WhatCannotBeUntiedIsRefusedAndNothingChanges) {
  LoraRegistry::global().add<HiddenImpl, LoraLinear>(
      "Hidden", [](HiddenImpl& layer) { return BaseWeight(layer.kernel); });
  struct PairImpl : torch::nn::Module {
    nn::Linear first = register_module("first", nn::Linear(4, 4));
    nn::Linear second = register_module("second", nn::Linear(4, 4));
    std::shared_ptr<HiddenImpl> hidden =
        register_module("hidden", std::make_shared<HiddenImpl>());
    nn::Linear third = register_module("third", nn::Linear(4, 4));
  };
  auto model = std::make_shared<PairImpl>();
  model->second->weight = model->first->weight;
  model->third->weight = model->hidden->kernel;
  auto peft = get_peft_model(*model, config({"first", "hidden"}));
  randomize(peft);
  const auto before = values_of(*model);
  const auto text = refusal([&] {
    peft.merge_adapter(/*safe_merge=*/false, {}, /*untie_weights=*/true);
  });
  EXPECT_NE(text.find("\"hidden\""), std::string::npos) << text;
  expect_equal(values_of(*model), before);
  EXPECT_TRUE(model->second->weight.is_same(model->first->weight));

  // By memory there is nothing to let go of.
  model->third->weight = model->hidden->kernel.detach();
  const auto third = model->third->weight.clone();
  peft.merge_adapter(/*safe_merge=*/false, {}, /*untie_weights=*/true);
  EXPECT_TRUE(torch::equal(model->third->weight, third));
  EXPECT_GT(difference(model->hidden->kernel, third), 1e-2);
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

TEST(UntyingLayers, AHeadThatIsTheTableCannotBe) {
  auto model = std::make_shared<TableHeadImpl>();
  auto peft = get_peft_model(*model, config({"table"}));
  randomize(peft);
  const auto weight = model->table->weight;
  const auto value = weight.clone();
  const auto text = refusal([&] {
    peft.merge_and_unload(
        /*safe_merge=*/false, /*adapter_names=*/{}, /*untie_weights=*/true);
  });
  EXPECT_NE(text.find("output head"), std::string::npos) << text;
  EXPECT_TRUE(model->table->weight.is_same(weight));
  EXPECT_TRUE(torch::equal(weight, value));
  EXPECT_EQ(peft.layers().size(), 1U);
}

/// Refusals of an initialiser that changes the base come before the first
/// decomposition.
TEST(BaseChangingInitialisers, AreRefusedBeforeTheyRun) {
  auto model = std::make_shared<NetImpl>(TieKind::kMemory);
  const auto before = values_of(*model);
  int progress = 0;
  const auto count = [&](size_t, size_t, const std::string&) { ++progress; };
  const auto changing = [&](std::vector<std::string> targets) {
    return config(std::move(targets))
        .init_lora_weights("pissa")
        .init_progress(count);
  };
  // `mid` comes before the tied head.
  EXPECT_THROW(
      get_peft_model(*model, changing({"mid", "head"})), c10::ValueError);
  EXPECT_EQ(progress, 0);
  expect_equal(values_of(*model), before);

  struct ChainImpl : torch::nn::Module {
    nn::Linear a = register_module("a", nn::Linear(4, 4));
    nn::Linear b = register_module("b", nn::Linear(4, 4));
  };
  auto chain = std::make_shared<ChainImpl>();
  auto peft = get_peft_model(*chain, config({"b"}));
  const auto values = values_of(*chain);
  const auto text =
      refusal([&] { peft.add_adapter("second", changing({"a", "b"})); });
  EXPECT_NE(text.find("'default'"), std::string::npos) << text;
  EXPECT_EQ(progress, 0);
  expect_equal(values_of(*chain), values);
  EXPECT_EQ(peft.layers().size(), 1U);
  EXPECT_NO_THROW(peft.add_adapter("second", changing({"a"})));
  EXPECT_EQ(progress, 1);
}

} // namespace
} // namespace torchlora
