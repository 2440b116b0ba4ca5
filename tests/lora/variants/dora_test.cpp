// DoRA where its norms or magnitudes are zero. What else it does is in
// variants_test.cpp.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>

#include "lora/layer_suite.h"
#include "lora/overlay/overlay_fixture.h"
#include "support.h"

namespace torchlora::test {
namespace {

using at::Tensor;

bool is_finite(const Tensor& tensor) {
  return at::isfinite(tensor).all().item<bool>();
}

template <class Type>
class DoraOfZeros : public LayerSuite<Type> {
 protected:
  DoraOfZeros() : LayerSuite<Type>(19) {}
  void SetUp() override {
    LayerSuite<Type>::SetUp();
    if (!Type::kHasDora) {
      GTEST_SKIP() << "no DoRA";
    }
  }
  /// Zeroes a row, a channel and a column of every weight, or all of it.
  void zero(bool all) {
    torch::NoGradGuard no_grad;
    for (auto& parameter : this->model_->parameters()) {
      if (parameter.dim() > 1) {
        parameter.select(0, 3).zero_();
        parameter.select(1, 2).zero_();
        parameter.mul_(all ? 0 : 1);
      }
    }
  }
  PeftModel adapt(double dropout = 0) {
    return LayerSuite<Type>::adapt(
        LoraConfig(3).use_dora(true).lora_dropout(dropout));
  }
  void expect_finite() {
    for (const auto& item : this->model_->named_parameters()) {
      EXPECT_TRUE(is_finite(item.value())) << item.key();
      if (item.value().grad().defined()) {
        EXPECT_TRUE(is_finite(item.value().grad())) << item.key();
      }
    }
  }
};
TYPED_TEST_SUITE(DoraOfZeros, MatrixLayerTypes);

TYPED_TEST(DoraOfZeros, AFreshAdapterIsTheBaseModelAndTrains) {
  for (const bool all : {false, true}) {
    for (const double dropout : {0.0, 0.3}) {
      this->model_ = test::make_module<PairImpl<TypeParam>>();
      this->zero(all);
      const auto base = this->run();
      auto peft = this->adapt(dropout);
      EXPECT_LT(this->difference(this->run(), base), 1e-6);
      for (int step = 0; step < 3; ++step) {
        this->model_->zero_grad();
        const auto output = this->model_->forward(this->x_);
        EXPECT_TRUE(is_finite(output));
        (output * torch::randn_like(output)).sum().backward();
        this->expect_finite();
        torch::NoGradGuard no_grad;
        double moved = 0;
        for (auto& parameter : peft.trainable_parameters()) {
          moved += parameter.grad().norm().template item<double>();
          parameter.sub_(parameter.grad(), 0.01);
        }
        // A gradient does not pass two layers of zeros in a row.
        if (!all || TypeParam::kFactorsOfALayer == 2) {
          EXPECT_GT(moved, 0) << "step " << step;
        }
      }
      peft.unload();
    }
  }
}

TYPED_TEST(DoraOfZeros, MergesAndUnmerges) {
  for (const bool all : {false, true}) {
    this->model_ = test::make_module<PairImpl<TypeParam>>();
    this->zero(all);
    const auto base = this->run();
    auto peft = this->adapt();
    for (const bool trained : {false, true}) {
      if (trained) {
        fill(peft);
      }
      const auto adapted = this->run();
      peft.merge_adapter();
      this->expect_finite();
      EXPECT_LT(this->difference(this->run(), adapted), 2e-5);
      {
        const auto guard = peft.disable_adapter();
        EXPECT_LT(this->difference(this->run(), base), 1e-4);
      }
      peft.unmerge_adapter();
      this->expect_finite();
      EXPECT_LT(this->difference(this->run(), adapted), 1e-4);
    }
  }
}

// Its row of the merged weight is zero: what it was must come from elsewhere.
TYPED_TEST(DoraOfZeros, AMagnitudeThatWasTrainedToZeroComesOffAgain) {
  for (const bool all : {false, true}) {
    this->model_ = test::make_module<PairImpl<TypeParam>>();
    const auto base = this->run();
    auto peft = this->adapt();
    fill(peft);
    peft.add_adapter(
        "plain", LoraConfig(2).target_modules({"target", "other"}));
    fill(peft, "plain");
    std::vector<Tensor> weights;
    for (const auto& [name, layer] : peft.layers()) {
      torch::NoGradGuard no_grad;
      auto m = layer->find_adapter("default")->variant_tensor(
          "lora_magnitude_vector");
      m.flatten()[1] = 0;
      m.mul_(all ? 0 : 1);
      weights.push_back(layer->base_weight().weight().clone());
    }
    for (const auto& order :
         {std::vector<std::string>{"default"},
          {"default", "plain"},
          {"plain", "default"}}) {
      peft.set_adapter(order);
      const auto adapted = this->run();
      EXPECT_TRUE(is_finite(adapted));
      peft.merge_adapter();
      this->expect_finite();
      EXPECT_LT(this->difference(this->run(), adapted), 2e-5);
      {
        const auto guard = peft.disable_adapter();
        EXPECT_LT(this->difference(this->run(), base), 1e-4);
      }
      size_t i = 0;
      for (const auto& [name, layer] : peft.layers()) {
        const auto before =
            layer->base_weight().from_matrix(layer->unmerged_matrix());
        EXPECT_LT(this->difference(before, weights[i++]), 2e-5) << name;
      }
      peft.unmerge_adapter();
      i = 0;
      for (const auto& [name, layer] : peft.layers()) {
        EXPECT_LT(
            this->difference(layer->base_weight().weight(), weights[i++]), 2e-5)
            << name;
      }
      EXPECT_LT(this->difference(this->run(), adapted), 1e-4);
    }
  }
}

} // namespace
} // namespace torchlora::test
