// Adapted layers that do not know torchlora: what the suites over all layer
// types do not show.
#include <torchlora/lora/overlay.h>

#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"
#include "lora/overlay/overlay_fixture.h"
#include "lora/overlay/third_party.h"

namespace torchlora {
namespace {

using at::Tensor;
namespace F = torch::nn::functional;

/// The module of third_party.h with torchlora's layers.
struct SameNetImpl : torch::nn::Module {
  SameNetImpl() {
    first = register_module("first", nn::Linear(6, 8));
    hidden = register_module("hidden", nn::Linear(8, 8));
    last = register_module("last", nn::Linear(8, 3));
  }
  Tensor forward(const Tensor& x) {
    return last(hidden(first(x).relu_()).tanh());
  }
  nn::Linear first{nullptr}, hidden{nullptr}, last{nullptr};
};

// A private member, in a library that was compiled without torchlora.
TEST_F(Overlay, APrivateMemberTrainsAsTheSameModelOfOurLayers) {
  auto theirs = test::on_device(third_party::Net());
  auto ours = test::make_module<SameNetImpl>();
  {
    torch::NoGradGuard no_grad;
    for (const auto& item : ours->named_parameters()) {
      item.value().copy_(theirs->named_parameters()[item.key()]);
    }
  }
  const auto config =
      LoraConfig(2).lora_alpha(4).target_modules({"first", "hidden", "last"});
  auto adapt = [&](torch::nn::Module& model) {
    torch::manual_seed(3);
    return get_peft_model(model, config);
  };
  auto peft = adapt(*theirs), expected = adapt(*ours);
  torch::optim::AdamW optimizer(peft.trainable_parameters(), 0.05);
  torch::optim::AdamW expected_optimizer(expected.trainable_parameters(), 0.05);
  const auto x = test::randn({5, 6}), y = test::randn({5, 3});
  const double tolerance = 1e-6;
  Tensor loss, expected_loss;
  const double start = F::mse_loss(theirs->forward(x), y).item<double>();
  for (int step = 0; step < 20; ++step) {
    loss = F::mse_loss(theirs->forward(x), y);
    expected_loss = F::mse_loss(ours->forward(x), y);
    optimizer.zero_grad();
    expected_optimizer.zero_grad();
    loss.backward();
    expected_loss.backward();
    optimizer.step();
    expected_optimizer.step();
    EXPECT_NEAR(loss.item<double>(), expected_loss.item<double>(), tolerance);
  }
  EXPECT_LT(loss.item<double>(), 0.5 * start);

  // The dense formula.
  torch::NoGradGuard no_grad;
  const auto output = theirs->forward(x);
  EXPECT_LT(difference(output, ours->forward(x)), tolerance);
  const auto dense = [&](size_t i, const Tensor& input) {
    const auto layer = peft.layers()[i].second;
    const auto base = layer->base_weight();
    return at::linear(
        input, base.weight() + layer->get_delta_weight("default"), base.bias());
  };
  EXPECT_LT(
      difference(output, dense(2, dense(1, dense(0, x).relu()).tanh())), 1e-6);
  peft.merge_and_unload();
  EXPECT_LT(difference(theirs->forward(x), output), 1e-6);
}

TEST_F(Overlay, LayersInsideOfLibTorchAreAdapted) {
  auto encoder = test::on_device(torch::nn::TransformerEncoderLayer(
      torch::nn::TransformerEncoderLayerOptions(12, 3)
          .dim_feedforward(16)
          .dropout(0)));
  const auto x = test::randn({4, 2, 12});
  const auto base = encoder(x).detach();
  auto peft = get_peft_model(
      *encoder,
      LoraConfig(2).target_modules({"self_attn", "linear1", "linear2"}));
  EXPECT_EQ(peft.layers().size(), 4U); // of the attention in_proj and out_proj
  fill(peft);
  const auto adapted = encoder(x);
  EXPECT_GT(difference(adapted, base), 1e-2);
  adapted.sum().backward();
  for (const auto& parameter : peft.trainable_parameters()) {
    EXPECT_TRUE(parameter.grad().defined());
  }
  const auto expected = adapted.detach();
  peft.merge_and_unload();
  EXPECT_LT(difference(encoder(x), expected), 1e-5);
}

TEST_F(Overlay, TypedAccessAndContainersReachTheAdaptedLayer) {
  auto sequential = test::on_device(torch::nn::Sequential(
      torch::nn::Linear(4, 4), torch::nn::ReLU(), torch::nn::Linear(4, 4)));
  auto list = test::on_device(torch::nn::ModuleList(torch::nn::Linear(4, 4)));
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("body", sequential);
  model->register_module("list", list);
  auto peft = get_peft_model(
      *model, LoraConfig(2).target_modules({"body.0", "body.2", "list.0"}));
  fill(peft);
  const auto x = test::randn({3, 4});
  const auto adapted = sequential->forward(x);
  const auto element = list[0]->as<torch::nn::Linear>()->forward(x);
  torch::NoGradGuard no_grad;
  const auto direct = [&](size_t i, const Tensor& input) {
    return peft.layers()[i].second->forward(input);
  };
  EXPECT_LT(difference(adapted, direct(1, direct(0, x).relu())), 1e-6);
  EXPECT_LT(difference(element, direct(2, x)), 1e-6);
  try {
    sequential->clone();
    ADD_FAILURE() << "cloned";
  } catch (const c10::Error& e) { // LibTorch's own words
    EXPECT_PRED_FORMAT2(
        testing::IsSubstring,
        "does not have the same number of child modules",
        e.what_without_backtrace());
  }
  peft.merge_and_unload();
  EXPECT_LT(difference(sequential->forward(x), adapted), 1e-5);
  EXPECT_NO_THROW(sequential->clone());
}

TEST_F(Overlay, AnArchiveHoldsTheRawWeightAndTheFactors) {
  if (test::test_device().is_hpu()) {
    GTEST_SKIP() << "LibTorch's archives do not know the fake device";
  }
  OneLayer one;
  const auto x = test::randn({3, 6});
  const auto adapted = one.layer->forward(x).detach();
  std::stringstream archive;
  torch::save(one.model, archive);
  {
    torch::NoGradGuard no_grad;
    for (auto& parameter : one.model->parameters()) {
      parameter.zero_();
    }
  }
  torch::load(one.model, archive);
  EXPECT_TRUE(torch::equal(one.layer->forward(x), adapted));
}

TEST_F(Overlay, InferenceModeAndThreads) {
  OneLayer one;
  const auto x = test::randn({3, 6});
  const auto expected = one.layer->forward(x).detach();
  {
    const c10::InferenceMode mode;
    EXPECT_TRUE(torch::equal(one.layer->forward(x), expected));
  }
  std::atomic<int> same = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      torch::NoGradGuard no_grad;
      for (int k = 0; k < 50; ++k) {
        same += torch::equal(one.layer->forward(x), expected);
      }
    });
  }
  for (auto& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(same, 200);
}

// Handles that somebody kept.
TEST_F(Overlay, AfterUnloadTheLayerIsWhatItWas) {
  auto layer = test::on_device(torch::nn::Linear(6, 4));
  const auto raw = layer->weight;
  const auto x = test::randn({3, 6});
  const auto base = layer->forward(x).detach();
  Tensor kept;
  {
    auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("layer", layer);
    auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"layer"}));
    fill(peft);
    kept = layer->weight;
    EXPECT_GT(difference(layer->forward(x), base), 1e-3);
  } // with the model goes the LoRA layer
  EXPECT_TRUE(layer->weight.is_same(raw));
  EXPECT_TRUE(torch::equal(layer->forward(x), base));
  EXPECT_EQ(layer->children().size(), 0U);
  EXPECT_TRUE(torch::equal(F::linear(x, kept, layer->bias), base));
}

TEST_F(Overlay, TiedWeightsAreTheirOwn) {
  struct TiedImpl : torch::nn::Module {
    torch::nn::Embedding table =
        register_module("table", torch::nn::Embedding(9, 6));
    torch::nn::Linear head = register_module(
        "head",
        torch::nn::Linear(torch::nn::LinearOptions(6, 9).bias(false)));
  };
  auto model = test::make_module<TiedImpl>();
  model->head->weight = model->table->weight;
  const auto x = test::randn({3, 6});
  const auto logits = model->head(x).detach();
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
  fill(peft);
  EXPECT_TRUE(torch::equal(model->head(x), logits)); // as in PEFT
  EXPECT_NE(
      refusal([&] { peft.merge_adapter(); }).find("\"head.weight\""),
      std::string::npos);
  // Both adapted: each is a tie of the other.
  peft.add_adapter("head", LoraConfig(2).target_modules({"head"}));
  peft.set_adapter("head");
  EXPECT_NE(refusal([&] { peft.merge_adapter(); }), "");
  // Tied after the fact: the head computes with the adapted table.
  peft.delete_adapter("head");
  peft.set_adapter("default");
  peft.unload();
  auto again = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
  fill(again);
  model->head->weight = model->table->weight;
  const auto table = again.layers()[0].second->adapted_weight();
  EXPECT_LT(difference(model->head(x), F::linear(x, table)), 1e-6);
}

// LibTorch holds rows of W to the norm, in place; PEFT of W and A.
TEST_F(Overlay, AnEmbeddingsNormIsThatOfTheAdaptedRow) {
  struct HolderImpl : torch::nn::Module {
    torch::nn::Embedding table = register_module(
        "table",
        torch::nn::Embedding(torch::nn::EmbeddingOptions(9, 6).max_norm(1.5)));
  };
  auto model = test::make_module<HolderImpl>();
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"table"}));
  fill(peft);
  torch::NoGradGuard no_grad;
  const auto indices = test::arange(9);
  const auto rows = model->table(indices);
  EXPECT_LT(rows.norm(2, -1).max().item<double>(), 1.5 + 1e-5);
  {
    const auto guard = peft.disable_adapter();
    EXPECT_LT(
        model->table(indices).norm(2, -1).max().item<double>(), 1.5 + 1e-5);
  }
}

/// A type that nobody registered, with a bare tensor.
struct ScaledImpl : torch::nn::Module {
  ScaledImpl()
      : matrix(register_parameter("matrix", test::randn({5, 4}) * 0.5)) {}
  Tensor forward(const Tensor& x) {
    return x.matmul(matrix) * 2;
  }
  Tensor matrix; // [in, out]
};

TEST_F(Overlay, AUsersTypeIsRegisteredByItsMember) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  auto scaled = test::make_module<ScaledImpl>();
  model->register_module("scaled", scaled);
  const auto config = LoraConfig(2).target_modules({"scaled"});
  static bool is_registered = false;
  if (!is_registered) {
    const auto text = refusal([&] { get_peft_model(*model, config); });
    EXPECT_NE(text.find("\"scaled\""), std::string::npos) << text;
    EXPECT_NE(text.find("BaseWeight::member"), std::string::npos) << text;
    LoraRegistry::global().add<ScaledImpl, LoraLinear>(
        "Scaled", [](ScaledImpl& module) {
          return BaseWeight(module.matrix, {}, "", WeightLayout::kInOut)
              .member(module.matrix);
        });
    is_registered = true;
  }
  const auto x = test::randn({3, 5});
  const auto base = scaled->forward(x).detach();
  auto peft = get_peft_model(*model, config);
  EXPECT_LT(difference(scaled->forward(x), base), 1e-6);
  fill(peft);
  const auto adapted = scaled->forward(x).detach();
  EXPECT_GT(difference(adapted, base), 1e-2);
  peft.merge_and_unload();
  EXPECT_LT(difference(scaled->forward(x), adapted), 1e-5);
}

TEST_F(Overlay, ALayerOfTwoModelsIsAdaptedByOne) {
  auto shared = test::on_device(torch::nn::Linear(4, 4));
  auto ours = test::on_device(nn::Linear(4, 4));
  const auto make = [&] {
    auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("own", nn::Linear(4, 4));
    model->register_module("shared", shared);
    model->register_module("ours", ours);
    return model;
  };
  auto first = make(), second = make();
  auto peft =
      get_peft_model(*first, LoraConfig(2).target_modules({"shared", "ours"}));
  for (const char* name : {"shared", "ours"}) {
    const auto text = refusal([&] {
      get_peft_model(*second, LoraConfig(2).target_modules({"own", name}));
    });
    EXPECT_NE(text.find("adapted already"), std::string::npos) << text;
  }
  EXPECT_EQ(second->named_parameters().size(), 6U);
}

TEST_F(Overlay, AnAssignedMemberIsNotMergedInSilence) {
  OneLayer one;
  const auto kept = one.layer->weight;
  one.layer->weight = test::zeros({4, 6});
  EXPECT_NE(
      refusal([&] { one.peft->merge_adapter(); }).find("was assigned"),
      std::string::npos);
  one.layer->weight = kept;
  one.peft->merge_and_unload();
}

// Their batch comes second.
TEST_F(Overlay, AMixedBatchInALayerOfLibTorchIsRefusedAndLeavesNothing) {
  auto encoder = test::on_device(torch::nn::TransformerEncoderLayer(
      torch::nn::TransformerEncoderLayerOptions(12, 3).dim_feedforward(16)));
  encoder->eval();
  auto peft = get_peft_model(
      *encoder, LoraConfig(2).target_modules({"linear1", "linear2"}));
  fill(peft);
  torch::NoGradGuard no_grad;
  const auto x = test::randn({2, 2, 12});
  const auto before = encoder(x);
  EXPECT_NE(
      refusal([&] {
        (void)peft.mixed_batch({"default", "__base__"});
      }).find("comes second"),
      std::string::npos);
  EXPECT_TRUE(torch::equal(encoder(x), before));
}

TEST_F(Overlay, GuardsInInferenceModeLeaveATrainableModel) {
  OneLayer one;
  const auto x = test::randn({3, 6});
  {
    const c10::InferenceMode mode;
    const auto guard = one.peft->disable_adapter();
    one.layer->forward(x);
  }
  one.layer->forward(x).sum().backward();
  EXPECT_TRUE(one.peft->trainable_parameters()[0].grad().defined());
}

TEST_F(Overlay, ARecurrentLayerIsRefused) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("rnn", torch::nn::LSTM(4, 4));
  const auto text = refusal(
      [&] { get_peft_model(*model, LoraConfig(2).target_modules({"rnn"})); });
  EXPECT_NE(text.find("a list of its own"), std::string::npos) << text;
}

} // namespace
} // namespace torchlora
