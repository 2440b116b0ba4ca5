// A layer with a bf16 or fp16 weight between fp32 tensors: what an adapter adds
// keeps its digits, also where it is far smaller than the rounding of the base
// layer's output.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>
#include <torchlora/model.h>
#include <torchlora/nn/compute.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"

namespace torchlora::nn {
namespace {

struct NetImpl : torch::nn::Module {
  NetImpl() {
    table->gives_fp32 = true;
    table->embed_scale = 3;
  }
  Linear fc = register_module("fc", Linear(32, 24));
  Embedding table = register_module("table", Embedding(11, 24));
};
TORCH_MODULE(Net);

/// dtype of the weights, route.
class HalfWeights
    : public testing::TestWithParam<std::tuple<at::ScalarType, ComputeRoute>> {
 protected:
  void SetUp() override {
    torch::manual_seed(0);
    set_compute_route(std::get<1>(GetParam()));
    net->to(std::get<0>(GetParam()));
  }
  void TearDown() override {
    set_compute_route(std::nullopt);
  }
  at::Tensor forward(const std::string& target) {
    return target == "fc" ? net->fc(x) : net->table(ids);
  }

  Net net = test::on_device(Net());
  at::Tensor x = test::randn({5, 32});
  at::Tensor ids = test::randint(11, {2, 5});
};

TEST_P(HalfWeights, KeepUpdatesBelowTheirRounding) {
  net->eval(); // as mixed batches require
  for (const std::string target : {"fc", "table"}) {
    auto peft = get_peft_model(
        *net, LoraConfig(4).lora_alpha(8).target_modules({target}), "small");
    const auto [A, B] =
        peft.layers().front().second->find_adapter("small")->factors();
    {
      torch::NoGradGuard no_grad;
      A.normal_();
      B.normal_(0, 1e-5);
    }
    const auto exact = target == "fc"
        ? 2 * at::linear(at::linear(x, A), B)
        : 2 * 3 * at::linear(at::embedding(A.t(), ids), B);
    const auto adapted = forward(target);
    at::Tensor base, mixed;
    {
      const auto guard = peft.disable_adapter();
      base = forward(target).detach();
    }
    {
      const auto guard = peft.mixed_batch(
          std::vector<std::string>(static_cast<size_t>(base.size(0)), "small"));
      mixed = forward(target);
    }
    ASSERT_EQ(base.scalar_type(), at::kFloat);
    for (const auto& output : {adapted, mixed}) {
      ASSERT_EQ(output.scalar_type(), at::kFloat);
      EXPECT_LT(
          (output - base - exact).norm().item<double>(),
          0.02 * exact.norm().item<double>())
          << target;
    }
    adapted.sum().backward();
    EXPECT_EQ(B.grad().scalar_type(), at::kFloat);
    peft.unload();
  }
}

TEST_P(HalfWeights, AreTheFp32LayersToTheirRounding) {
  const auto base = net->fc(x);
  const auto rows = net->table(ids);
  const auto& weight = net->fc->weight;
  const auto exact =
      at::linear(x, weight.to(at::kFloat), net->fc->bias.to(at::kFloat));
  const double rounding =
      weight.scalar_type() == at::kBFloat16 ? 1.0 / 256 : 1.0 / 2048;
  EXPECT_LT(
      (base - exact).abs().max().item<double>(),
      rounding * exact.abs().max().item<double>());
  EXPECT_TRUE(torch::equal(
      rows, at::embedding(net->table->weight.to(at::kFloat), ids) * 3));
  const auto copy =
      std::dynamic_pointer_cast<EmbeddingImpl>(net->table->clone());
  EXPECT_TRUE(torch::equal(copy->forward(ids), rows));
  // As a model in bf16 always did.
  EXPECT_EQ(
      net->fc(x.to(weight.scalar_type())).scalar_type(), weight.scalar_type());
}

// The norms of its rows decide what a fresh DoRA adapter multiplies by.
TEST_P(HalfWeights, AFreshDoraAdapterIsTheBaseModel) {
  const auto base = net->fc(x);
  get_peft_model(*net, LoraConfig(4).target_modules({"fc"}).use_dora(true));
  EXPECT_TRUE(torch::allclose(net->fc(x), base, 1e-6, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(
    Routes,
    HalfWeights,
    testing::Combine(
        testing::Values(at::kBFloat16, at::kHalf),
        testing::Values(ComputeRoute::kNative, ComputeRoute::kUpcast)));

} // namespace
} // namespace torchlora::nn
