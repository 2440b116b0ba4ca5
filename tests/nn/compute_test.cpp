#include <thread>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/nn/compute.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"

namespace torchlora::nn {
namespace {

struct ForcedRoute {
  explicit ForcedRoute(ComputeRoute route) {
    set_compute_route(route);
  }
  ~ForcedRoute() {
    set_compute_route(std::nullopt);
  }
};

struct Result {
  at::Tensor output, grad_input, grad_weight, grad_bias;
};

Result run(
    const at::Tensor& x,
    const at::Tensor& w,
    const at::Tensor& b,
    const at::Tensor& g) {
  auto xi = x.clone().requires_grad_();
  auto wi = w.clone().requires_grad_();
  auto bi = b.clone().requires_grad_();
  auto y = nn::linear(xi, wi, bi);
  y.backward(g);
  return {y.detach(), xi.grad(), wi.grad(), bi.grad()};
}

void expect_close(const at::Tensor& a, const at::Tensor& b, double relative) {
  ASSERT_EQ(a.scalar_type(), b.scalar_type());
  const auto difference =
      (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
  EXPECT_LE(
      difference, relative * b.to(at::kDouble).abs().max().item<double>());
}

double rounding_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kBFloat16:
      return 1.0 / 256;
    case at::kHalf:
      return 1.0 / 2048;
    default:
      return 1e-5;
  }
}

// As relu_ and += of models do.
TEST(ComputeRoute, TheOutputMayBeChangedInPlace) {
  for (const auto route : {ComputeRoute::kNative, ComputeRoute::kUpcast}) {
    const ForcedRoute forced(route);
    const auto w = test::randn({5, 4}).to(at::kBFloat16);
    const auto x = test::randn({2, 3, 4}).to(at::kBFloat16).requires_grad_();
    const auto plain = torch::relu(nn::linear(x, w));
    auto y = nn::linear(x, w);
    y.relu_();
    EXPECT_TRUE(torch::equal(y, plain));
    y.sum().backward();
    EXPECT_TRUE(x.grad().defined());
  }
}

/// dtype of the input, dtype of the weight, route.
class ComputeRouteDtypes
    : public testing::TestWithParam<
          std::tuple<at::ScalarType, at::ScalarType, ComputeRoute>> {};

// 1300 rows: two whole blocks and a short one.
TEST_P(ComputeRouteDtypes, EqualsDoublePrecisionToTheRoundingOfTheDtypes) {
  torch::manual_seed(0);
  const auto [input_dtype, weight_dtype, route] = GetParam();
  const auto x = test::randn({3, 7, 96}).to(input_dtype);
  const auto w = (test::randn({1300, 96}) / 10).to(weight_dtype);
  const auto b = test::randn({1300}).to(weight_dtype);
  const auto g = test::randn({3, 7, 1300}).to(input_dtype);
  const auto exact =
      run(x.to(at::kDouble),
          w.to(at::kDouble),
          b.to(at::kDouble),
          g.to(at::kDouble));
  ForcedRoute forced(route);
  const auto result = run(x, w, b, g);
  // The native route rounds an fp32 input to the weight's dtype, and the
  // product.
  const bool rounds = input_dtype == at::kFloat &&
      (route == ComputeRoute::kNative || !test::test_device().is_cpu());
  const auto least = rounds ? 2 * rounding_of(weight_dtype) : 0;
  const auto compare = [&](const at::Tensor& a,
                           const at::Tensor& reference,
                           at::ScalarType dtype) {
    expect_close(a, reference.to(dtype), std::max(rounding_of(dtype), least));
  };
  compare(result.output, exact.output, input_dtype);
  compare(result.grad_input, exact.grad_input, input_dtype);
  compare(result.grad_weight, exact.grad_weight, weight_dtype);
  compare(result.grad_bias, exact.grad_bias, weight_dtype);
  compare(linear_backward_input(g, w), exact.grad_input, input_dtype);
  const auto x32 = x.to(at::kFloat);
  expect_close(linear_in_fp32(x32, w), at::linear(x32, w.to(at::kFloat)), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(
    Half,
    ComputeRouteDtypes,
    testing::Combine(
        testing::Values(at::kBFloat16, at::kHalf, at::kFloat),
        testing::Values(at::kBFloat16, at::kHalf),
        testing::Values(ComputeRoute::kNative, ComputeRoute::kUpcast)));

TEST(ComputeRoute, OneRowAndNoRowsKeepTheirShape) {
  const auto w = test::randn({600, 32}).to(at::kBFloat16);
  ForcedRoute forced(ComputeRoute::kUpcast);
  const auto row = test::randn({32}).to(at::kBFloat16);
  EXPECT_EQ(nn::linear(row, w).sizes(), (std::vector<int64_t>{600}));
  auto none = test::empty({2, 0, 32}, at::kBFloat16).requires_grad_();
  const auto y = nn::linear(none, w);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{2, 0, 600}));
  y.sum().backward();
  EXPECT_EQ(none.grad().sizes(), none.sizes());
}

TEST(ComputeRoute, IsForcedForHalfTypesOnly) {
  for (const auto route : {ComputeRoute::kNative, ComputeRoute::kUpcast}) {
    ForcedRoute forced(route);
    EXPECT_EQ(compute_route(at::kBFloat16), route);
    EXPECT_EQ(compute_route(at::kHalf), route);
    EXPECT_EQ(compute_route(at::kFloat), ComputeRoute::kNative);
  }
}

TEST(ComputeRoute, Fp32LayersAreLibTorchsOnEitherRoute) {
  torch::manual_seed(0);
  const auto x = test::randn({5, 32}), w = test::randn({16, 32});
  ForcedRoute forced(ComputeRoute::kUpcast);
  EXPECT_TRUE(torch::equal(nn::linear(x, w), at::linear(x, w)));
  EXPECT_TRUE(torch::equal(
      linear_backward_input(at::linear(x, w), w),
      at::matmul(at::linear(x, w), w)));
}

TEST(ComputeRoute, AFrozenWeightSavesNoInputAndGetsNoGradient) {
  const auto w = test::randn({600, 32}).to(at::kBFloat16);
  auto x = test::randn({5, 32}).to(at::kBFloat16).requires_grad_();
  ForcedRoute forced(ComputeRoute::kUpcast);
  auto y = nn::linear(x, w);
  const auto references = x.use_count();
  y.sum().backward();
  EXPECT_TRUE(x.grad().defined());
  EXPECT_FALSE(w.grad().defined());
  EXPECT_EQ(x.use_count(), references);
}

TEST(Linear, FromWeightAllocatesAndCopiesNothing) {
  const auto w = test::randn({3, 5}).to(at::kBFloat16);
  const auto layer = LinearImpl::from_weight(w);
  EXPECT_EQ(layer->weight.data_ptr(), w.data_ptr());
  EXPECT_EQ(layer->named_parameters()["weight"].data_ptr(), w.data_ptr());
  EXPECT_EQ(layer->options.in_features(), 5);
  EXPECT_EQ(layer->options.out_features(), 3);
  EXPECT_FALSE(layer->bias.defined());
}

TEST(Linear, CloneIsIndependentAndKeepsItsType) {
  auto layer = test::on_device(Linear(5, 3));
  const auto copy = std::dynamic_pointer_cast<LinearImpl>(layer->clone());
  ASSERT_TRUE(copy);
  const auto x = test::randn({2, 5});
  EXPECT_TRUE(torch::equal(copy->forward(x), layer->forward(x)));
  EXPECT_NE(copy->weight.data_ptr(), layer->weight.data_ptr());
}

TEST(Linear, WorksInASequential) {
  auto net = test::on_device(
      torch::nn::Sequential(Linear(5, 4), torch::nn::ReLU(), Linear(4, 2)));
  EXPECT_EQ(
      net->forward(test::randn({3, 5})).sizes(), (std::vector<int64_t>{3, 2}));
}

// The memory that a thread keeps for upcast weights serves both modes.
TEST(ComputeRoute, TrainsInAThreadThatBeganInInferenceMode) {
  const ForcedRoute forced(ComputeRoute::kUpcast);
  std::thread([] {
    const auto w = test::randn({8, 6}).to(at::kBFloat16);
    const auto x = test::randn({3, 6}).to(at::kBFloat16);
    at::Tensor inferred;
    {
      const c10::InferenceMode inference;
      inferred = nn::linear(x, w);
    }
    auto input = x.clone().requires_grad_();
    const auto output = nn::linear(input, w);
    output.sum().backward();
    EXPECT_TRUE(torch::equal(output, inferred));
  }).join();
}

} // namespace
} // namespace torchlora::nn
