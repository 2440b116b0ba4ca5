// The initializers from data, on every layer type.
#include <map>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/lora/registry.h>
#include <torchlora/model.h>
#include <torchlora/tools/preprocess.h>

#include "lora/layer_suite.h"

namespace torchlora {
namespace {

using at::Tensor;

/// Every layer type.
template <class Type>
class DataInitializerLayers : public test::LayerSuite<Type> {
 protected:
  DataInitializerLayers() : test::LayerSuite<Type>(3) {}
  LoraConfig config(const char* name) {
    return LoraConfig(4)
        .lora_alpha(12)
        .target_modules({"target", "other"})
        .init_lora_weights(name);
  }
  /// Of all that will be adapted, as matrices, by name.
  std::map<std::string, Tensor> weights() {
    std::map<std::string, Tensor> weights;
    const auto add = [&](const std::string& name, torch::nn::Module& module) {
      const auto type = LoraRegistry::global().find(module);
      weights[name] = type->base_weight(module).matrix().detach().clone();
    };
    for (auto [name, module] :
         {std::pair{"target", this->model_->target},
          std::pair{"block.other", this->model_->other}}) {
      add(name, *module);
      if (const auto children = module->named_children();
          children.contains("out_proj")) {
        add(std::string(name) + ".out_proj", *children["out_proj"]);
      }
    }
    return weights;
  }
};
TYPED_TEST_SUITE(DataInitializerLayers, test::MatrixLayerTypes);

TYPED_TEST(DataInitializerLayers, TheAdaptedLayerIsTheBaseLayer) {
  for (const bool dora : {false, true}) {
    for (const char* name : {"corda", "lora_ga", "eva"}) {
      if (dora && !TypeParam::kHasDora) {
        continue;
      }
      this->model_ = test::make_module<test::PairImpl<TypeParam>>();
      const auto before = this->run();
      const auto weights = this->weights();
      auto config = this->config(name).use_dora(dora);
      InitStatistics statistics;
      if (config.init_lora_weights().name() == "corda") {
        statistics = preprocess_corda(
            *this->model_, config, [&] { this->model_->forward(this->x_); });
      } else if (config.init_lora_weights().name() == "lora_ga") {
        config.lora_ga_config(LoraGAConfig());
        statistics = preprocess_loraga(*this->model_, config, [&] {
          this->model_->forward(this->x_).square().mean().backward();
        });
      }
      auto peft = get_peft_model(
          *this->model_,
          config,
          "default",
          InjectOptions().init_statistics(statistics));
      if (config.init_lora_weights().name() == "eva") {
        initialize_lora_eva_weights(peft, [&] {
          this->model_->forward(this->x_);
          return true;
        });
      }
      EXPECT_LT(this->difference(this->run(), before), 1e-5) << name;
      EXPECT_EQ(peft.layers().size(), weights.size());
      for (const auto& [layer_name, layer] : peft.layers()) {
        torch::NoGradGuard no_grad;
        const auto& weight = weights.at(layer_name);
        const auto base = layer->base_weight();
        const bool changes = config.init_lora_weights().name() != "eva";
        EXPECT_EQ(this->difference(base.matrix(), weight) > 1e-4, changes);
        base.add_(layer->get_delta_weight("default"));
        EXPECT_LT(this->difference(base.matrix(), weight), 1e-6) << name;
      }
    }
  }
}

TYPED_TEST(DataInitializerLayers, LoftqIsCloserThanItsQuantizedBase) {
  for (const int64_t bits : {4, 8}) {
    this->model_ = test::make_module<test::PairImpl<TypeParam>>();
    const auto weights = this->weights();
    auto peft = get_peft_model(
        *this->model_,
        this->config("loftq").loftq_config(LoftQConfig().loftq_bits(bits)));
    EXPECT_EQ(peft.layers().size(), weights.size());
    for (const auto& [name, layer] : peft.layers()) {
      const Tensor Q = layer->base_weight().matrix();
      const Tensor rest = weights.at(name) - Q;
      // The best approximation of the rest leaves its smaller singular values.
      const Tensor S = at::linalg_svdvals(rest);
      const Tensor left = rest - layer->get_delta_weight("default");
      EXPECT_GT(S[0].item<double>(), 0);
      EXPECT_NEAR(
          (left.norm() / rest.norm()).item<double>(),
          (S.narrow(0, 4, S.size(0) - 4).norm() / S.norm()).item<double>(),
          1e-4);
      EXPECT_LT(left.norm().item<double>(), 0.95 * rest.norm().item<double>());
    }
  }
}

/// The rows that are observed times the weight are the layer's product.
TYPED_TEST(DataInitializerLayers, WhatIsObservedIsWhatTheWeightMultiplies) {
  auto peft = this->adapt();
  const auto layer = peft.layers().at(0).second;
  Tensor rows;
  layer->set_input_observer([&](const Tensor& seen) { rows = seen; });
  auto adapted = this->model_->target;
  torch::NoGradGuard no_grad;
  adapted(this->x_);
  layer->set_input_observer({});
  if (std::is_base_of_v<test::AttentionType, TypeParam>) {
    EXPECT_TRUE(rows.equal(this->x_.flatten(0, 1)));
    return;
  }
  if (std::is_base_of_v<test::ConvTransposeType, TypeParam>) {
    EXPECT_TRUE(rows.equal(this->x_.movedim(1, -1).flatten(0, 2)));
    return;
  }
  const auto weight = torch::randn_like(layer->base_weight().matrix());
  const auto stored = layer->base_weight().from_matrix(weight);
  const auto zero =
      TypeParam::dense(this->model_->target, this->x_, at::zeros_like(stored));
  auto expected =
      TypeParam::dense(this->model_->target, this->x_, stored) - zero;
  auto product = at::mm(rows, weight.t());
  if constexpr (std::is_same_v<TypeParam, test::EmbeddingType>) {
    product = product * this->model_->target->embed_scale;
  } else if constexpr (std::is_same_v<TypeParam, test::ClippableLinearType>) {
    product = this->model_->target->clamp_output(product);
  }
  if (!std::is_same_v<TypeParam, test::BilinearType> &&
      !layer->base_weight().weight().sizes().slice(2).empty()) {
    expected = expected.movedim(1, -1);
  }
  EXPECT_LT(this->difference(product, expected.reshape(product.sizes())), 1e-4);
}

} // namespace
} // namespace torchlora
