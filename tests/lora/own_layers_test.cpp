// Layers of a user's program, and what a user may do to any layer.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/conv.h>
#include <torchlora/lora/layers/linear.h>
#include <torchlora/lora/overlay.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>
#include <torchlora/optim/lorafa.h>

#include "support.h"

namespace torchlora {
namespace {

using at::Tensor;

/// A grouped convolution that LibTorch does not know.
struct ForeignConvImpl : torch::nn::Module {
  Tensor forward(const Tensor& x) {
    return at::conv1d(x, kernel, {}, 1, 1, 1, /*groups=*/2);
  }
  Tensor kernel = register_parameter("kernel", test::randn({6, 2, 3}));
};
TORCH_MODULE(ForeignConv);

TEST(OwnLayers, AGroupedConvolutionOfTheUsersIsAdaptedAsOne) {
  if (!has_weight_overlay()) {
    GTEST_SKIP() << "no weight overlay";
  }
  torch::manual_seed(3);
  LoraRegistry::global().add<ForeignConvImpl, LoraConv>(
      "ForeignConv",
      [](ForeignConvImpl& m) { return BaseWeight(m.kernel).member(m.kernel); });
  auto model = std::make_shared<torch::nn::Module>("Model");
  ForeignConv conv;
  model->register_module("conv", conv);
  auto peft = get_peft_model(*model, LoraConfig(2).target_modules({"conv"}));
  torch::NoGradGuard no_grad;
  for (auto& parameter : peft.trainable_parameters()) {
    parameter.normal_();
  }
  const auto x = test::randn({2, 4, 7});
  const auto adapted = conv(x);
  peft.merge_and_unload();
  EXPECT_LT(difference(conv(x), adapted), 1e-5);
}

struct GatedImpl : nn::Adaptable<torch::nn::LinearImpl, GatedImpl> {
  using Adaptable::Adaptable;
};
TORCH_MODULE(Gated);

/// A LoRA layer with a child of its own.
struct LoraGated : LoraLinear {
  LoraGated(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraLinear(base_layer, std::move(accessor)) {
    register_module("gate", torch::nn::Linear(4, 4));
  }
};

TEST(OwnLayers, AChildOfALoraLayerStaysInTheTree) {
  LoraRegistry::global().add<GatedImpl, LoraGated>(
      "Gated", [](GatedImpl& m) { return BaseWeight(m.weight, m.bias); });
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("fc", Gated(4, 4));
  auto peft = get_peft_model(
      *model, LoraConfig(2).use_dora(true).target_modules({"fc"}));
  const auto names = model->named_parameters();
  EXPECT_TRUE(names.contains("fc.gate.weight"));
  EXPECT_TRUE(names.contains("fc.lora_magnitude_vector.default.weight"));
  peft.delete_adapter("default");
  EXPECT_TRUE(model->named_parameters().contains("fc.gate.weight"));
}

TEST(OwnLayers, AMergeOfOneLayerIsCheckedBeforeItWrites) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module(
      "fc", nn::Linear(torch::nn::LinearOptions(4, 3).bias(false)));
  const auto layers = inject_adapter(
      *model, LoraConfig(2).lora_bias(true).target_modules({"fc"}));
  const auto weight = layers[0]->base_weight().weight().clone();
  EXPECT_THROW(layers[0]->merge(), c10::ValueError);
  EXPECT_TRUE(torch::equal(layers[0]->base_weight().weight(), weight));
  EXPECT_FALSE(layers[0]->merged());
}

TEST(OwnLayers, AScaleChangesAllActiveAdaptersOrNone) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("fc", nn::Linear(4, 3));
  const auto config = LoraConfig(2).lora_alpha(2).target_modules({"fc"});
  auto peft = get_peft_model(*model, config);
  peft.add_adapter("second", config);
  peft.merge_adapter(MergeOptions().adapter_names({"second"}));
  const auto layer = peft.layers()[0].second;
  layer->set_adapter({"default", "second"});
  EXPECT_THROW(layer->scale_layer(3), c10::ValueError);
  EXPECT_THROW(layer->unscale_layer(3), c10::ValueError);
  EXPECT_EQ(layer->find_adapter("default")->scaling, 1);
}

// In half precision the sum is finite in fp32 only.
TEST(OwnLayers, ASafeMergeJudgesTheDtypeThatIsWritten) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  auto fc = test::on_device(nn::Linear(4, 3));
  model->register_module("fc", fc);
  model->to(torch::kHalf);
  auto peft = get_peft_model(
      *model, LoraConfig(2).use_dora(true).target_modules({"fc"}));
  torch::NoGradGuard no_grad;
  const auto* adapter = peft.layers()[0].second->find_adapter("default");
  adapter->variant_tensor("lora_magnitude_vector").fill_(1e6);
  const auto weight = fc->weight.clone();
  EXPECT_THROW(
      peft.merge_adapter(MergeOptions().safe_merge(true)), c10::ValueError);
  EXPECT_TRUE(torch::equal(fc->weight, weight));
}

TEST(OwnLayers, AGuardMayOutliveTheModel) {
  std::unique_ptr<DisableAdapterGuard> guard;
  {
    auto model = std::make_shared<torch::nn::Module>("Model");
    model->register_module("embed_tokens", nn::Embedding(9, 4));
    model->register_module("fc", nn::Linear(4, 4));
    auto peft = get_peft_model(
        *model,
        LoraConfig(2).target_modules({"fc"}).trainable_token_indices({1, 3}));
    guard = std::make_unique<DisableAdapterGuard>(peft);
  }
  EXPECT_NO_THROW(guard.reset());
}

TEST(OwnLayers, OptimizersOfTwoFactorsRefuseAThird) {
  auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("fc", nn::Linear(6, 5));
  auto peft = get_peft_model(
      *model, LoraConfig(2).kasa_config(KasaConfig()).target_modules({"fc"}));
  EXPECT_PRED_FORMAT2(testing::IsSubstring, "kasa_config", refusal([&] {
                        create_lorafa_optimizer(*model);
                      }));
}

TEST(OwnLayers, AnAccessorWhoseMemberIsAnotherTensorIsRefused) {
  if (!has_weight_overlay()) {
    GTEST_SKIP() << "no weight overlay";
  }
  struct TwoImpl : torch::nn::Module {
    Tensor forward(const Tensor& x) {
      return at::linear(x, weight) + at::linear(x, other);
    }
    Tensor weight = register_parameter("weight", test::randn({4, 4}));
    Tensor other = register_parameter("other", test::randn({4, 4}));
  };
  LoraRegistry::global().add<TwoImpl, LoraLinear>(
      "Two", [](TwoImpl& m) { return BaseWeight(m.weight).member(m.other); });
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module("two", test::make_module<TwoImpl>());
  const auto text = refusal(*model, LoraConfig(2).target_modules({"two"}));
  EXPECT_NE(text.find("BaseWeight::member"), std::string::npos) << text;
}

// A holder, or what cannot take its place, is no base.
static_assert(nn::AdaptableBase<torch::nn::LinearImpl>);
static_assert(!nn::AdaptableBase<torch::nn::Linear>);
static_assert(!nn::AdaptableBase<torch::nn::LSTMImpl>);
static_assert(!nn::AdaptableBase<Tensor>);

TEST(OwnLayers, ARedirectableTypeThatNobodyRegisteredIsTold) {
  struct NormImpl : nn::Adaptable<torch::nn::LayerNormImpl, NormImpl> {
    using Adaptable::Adaptable;
  };
  const auto model = std::make_shared<torch::nn::Module>("Model");
  model->register_module(
      "norm", test::make_module<NormImpl>(torch::nn::LayerNormOptions({4})));
  const auto text = refusal(*model, LoraConfig(2).target_modules({"norm"}));
  EXPECT_NE(text.find("register it"), std::string::npos) << text;
  EXPECT_EQ(text.find("Derive the layer"), std::string::npos) << text;
}

} // namespace
} // namespace torchlora
