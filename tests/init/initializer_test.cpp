#include <filesystem>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/init/detail/decompose.h>
#include <torchlora/io/safetensors.h>
#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>
#include <torchlora/tools/preprocess.h>

#include "lora/layer_suite.h"
#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

struct HolderImpl : torch::nn::Module {
  explicit HolderImpl(nn::Linear layer_)
      : layer(register_module("layer", layer_)) {}
  nn::Linear layer;
};

/// The layer of a golden, adapted by the initializer that it is called by.
class InitializerGoldens : public testing::TestWithParam<const char*> {
 protected:
  Tensor golden(const std::string& name) const {
    return test::on_device(file_.tensor(std::string(GetParam()) + "/" + name));
  }
  io::SafetensorsFile file_{
      std::filesystem::path(TORCHLORA_TEST_DATA) / "lora" /
      "initializers.safetensors"};
};

TEST_P(InitializerGoldens, FactorsAndResidualAreThoseOfPeft) {
  auto model = test::make_module<HolderImpl>(
      nn::LinearImpl::from_weight(golden("weight").clone()));
  torch::manual_seed(5);
  auto peft = get_peft_model(
      *model,
      LoraConfig(4).lora_alpha(6).target_modules({"layer"}).init_lora_weights(
          GetParam()));
  const auto layer = peft.layers().at(0).second;
  const auto* adapter = layer->find_adapter("default");
  auto A = adapter->lora_A->weight.detach();
  auto B = adapter->lora_B->weight.detach();
  // A decomposition leaves the signs of its vectors open.
  const auto signs = at::sign((B * golden("B")).sum(0));
  EXPECT_LT(difference(B * signs, golden("B")), 2e-5);
  EXPECT_LT(difference(A * signs.unsqueeze(1), golden("A")), 2e-5);
  EXPECT_LT(
      difference(layer->base_weight().weight(), golden("residual")), 1e-5);
  EXPECT_EQ(
      adapter->lora_B->weight.requires_grad(),
      std::string(GetParam()) != "mica");
}

INSTANTIATE_TEST_SUITE_P(
    All,
    InitializerGoldens,
    testing::Values("olora", "pissa", "pissa_niter_4", "orthogonal", "mica"));

/// Every layer type with every initializer that starts from the base layer.
template <class Type>
class InitializerLayers : public test::LayerSuite<Type> {
 protected:
  InitializerLayers() : test::LayerSuite<Type>(3) {}
};
TYPED_TEST_SUITE(InitializerLayers, test::MatrixLayerTypes);

TYPED_TEST(InitializerLayers, TheAdaptedLayerIsTheBaseLayer) {
  for (const auto* name :
       {"gaussian", "olora", "pissa", "pissa_niter_8", "mica"}) {
    for (const bool dora : {false, true}) {
      if (dora && !TypeParam::kHasDora) {
        continue;
      }
      torch::manual_seed(3);
      auto model = test::make_module<test::PairImpl<TypeParam>>();
      const auto x = this->x_;
      torch::NoGradGuard no_grad;
      const auto before = model->forward(x);
      std::vector<Tensor> weights;
      for (const auto& parameter : model->parameters()) {
        weights.push_back(parameter.clone());
      }
      auto peft = get_peft_model(
          *model,
          LoraConfig(4)
              .lora_alpha(12)
              .target_modules({"target", "other"})
              .use_dora(dora)
              .init_lora_weights(name));
      EXPECT_LT(difference(model->forward(x), before), 1e-5) << name;
      for (const auto& [unused, layer] : peft.layers()) {
        layer->base_weight().add_(layer->get_delta_weight("default"));
      }
      peft.unload();
      size_t i = 0;
      for (const auto& parameter : model->parameters()) {
        EXPECT_LT(difference(parameter, weights[i++]), 1e-6) << name;
      }
    }
  }
}

TEST(LeadingTriplets, AreThoseOfAWholeDecomposition) {
  torch::manual_seed(0);
  const int64_t m = 300, n = 260, r = 8;
  const auto U = std::get<0>(at::linalg_qr(test::randn({m, n})));
  const auto V = std::get<0>(at::linalg_qr(test::randn({n, n})));
  const auto k = test::arange(1, n + 1, torch::kFloat);
  for (const double power : {0.5, 0.0}) { // 0: flat, no part is leading
    const auto W = at::mm(U * k.pow(-power), V.t());
    const auto [u, s, v] = init::leading_triplets(W, r);
    EXPECT_LT(difference(s, k.narrow(0, 0, r).pow(-power)), 1e-5);
    const auto BA = at::mm(u * s, v.t());
    if (power > 0) {
      const auto expected = at::mm(
          U.narrow(1, 0, r) * k.narrow(0, 0, r).pow(-power),
          V.narrow(1, 0, r).t());
      EXPECT_LT(
          ((BA - expected).norm() / expected.norm()).item<double>(), 1e-5);
    }
    EXPECT_LT(difference(at::mm(u.t(), u), test::eye(r)), 1e-5);

    const auto last = init::last_triplets(W, r);
    EXPECT_LT(difference(last.S, k.narrow(0, n - r, r).pow(-power)), 1e-5);
    EXPECT_LT(difference(at::mm(W, last.V), last.U * last.S), 1e-5);
    EXPECT_LT(difference(at::mm(last.V.t(), last.V), test::eye(r)), 1e-4);
  }
}

TEST(Initializers, WhatTheyNeedIsSaid) {
  auto model = test::make_module<HolderImpl>(nn::Linear(6, 5));
  const auto refusal = [&](int64_t r, const char* name) {
    return torchlora::refusal(
        *model,
        LoraConfig(r).target_modules({"layer"}).init_lora_weights(name));
  };
  EXPECT_NE(refusal(3, "orthogonal").find("even"), std::string::npos);
  EXPECT_NE(refusal(6, "pissa").find("min(in_features"), std::string::npos);
  EXPECT_NE(refusal(6, "olora").find("min(in_features"), std::string::npos);
  EXPECT_NE(
      refusal(2, "pissa_niter_x").find("pissa_niter_["), std::string::npos);
  EXPECT_NE(refusal(2, "dft").find("\"pissa_niter_N\""), std::string::npos);
  EXPECT_EQ(model->layer->weight.requires_grad(), true);
}

TEST(Initializers, UnloadingWithoutAMergeSaysThatTheBaseIsTheResidual) {
  Warnings warnings;
  auto model = test::make_module<HolderImpl>(nn::Linear(6, 5));
  const auto config = LoraConfig(2).target_modules({"layer"});
  get_peft_model(*model, config).unload();
  get_peft_model(*model, LoraConfig(config).init_lora_weights("olora"))
      .merge_and_unload();
  EXPECT_EQ(warnings.text, "");
  get_peft_model(*model, LoraConfig(config).init_lora_weights("olora"))
      .unload();
  EXPECT_NE(warnings.text.find("merge_and_unload"), std::string::npos);
}

TEST(Initializers, AnErrorOnALaterLayerLeavesTheWeightsAlone) {
  struct TwoImpl : torch::nn::Module {
    TwoImpl() {
      register_module("a", nn::Linear(8, 8));
      register_module("b", nn::Linear(8, 2));
    }
  };
  auto model = test::make_module<TwoImpl>();
  const auto before = model->parameters()[0].clone();
  EXPECT_THROW(
      get_peft_model(
          *model,
          LoraConfig(4).target_modules({"a", "b"}).init_lora_weights("olora")),
      c10::ValueError);
  EXPECT_TRUE(torch::equal(model->parameters()[0], before));
}

// Its singular values are zeros, by which nothing may be divided.
TEST(Initializers, AWeightOfZerosGetsFiniteFactors) {
  torch::manual_seed(3);
  const auto x = test::randn({20, 8});
  for (const bool all : {true, false}) {
    for (const char* name :
         {"olora", "pissa", "pissa_niter_4", "mica", "orthogonal", "corda"}) {
      auto model = test::make_module<HolderImpl>(nn::Linear(8, 6));
      {
        torch::NoGradGuard no_grad;
        auto& weight = model->layer->weight;
        weight.narrow(0, all ? 0 : 1, all ? 6 : 5).zero_(); // of rank 0 or 1
      }
      const auto config =
          LoraConfig(4).target_modules({"layer"}).init_lora_weights(name);
      InjectOptions options;
      if (std::string(name) == "corda") {
        options.init_statistics(
            preprocess_corda(*model, config, [&] { model->layer(x); }));
      }
      const auto before = model->layer(x);
      auto peft = get_peft_model(*model, config, "default", options);
      for (const auto& item : model->named_parameters()) {
        EXPECT_TRUE(at::isfinite(item.value()).all().item<bool>())
            << name << ' ' << item.key();
      }
      if (std::string(name) != "orthogonal") { // draws both factors
        EXPECT_LT(difference(model->layer(x), before), 1e-5) << name;
      }
      peft.unload();
    }
  }
}

} // namespace
} // namespace torchlora
