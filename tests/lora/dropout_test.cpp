#include <cmath>

#include <ATen/core/PhiloxRNGEngine.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/detail/dropout.h>
#include <torchlora/torchlora.h>

#include "support.h"

namespace torchlora::test {
namespace {

/// The mask that `seed` gives.
Tensor mask_of(uint64_t seed, at::IntArrayRef sizes, double p) {
  torch::manual_seed(seed);
  return detail::dropout(test::ones(sizes), p);
}

/// Restores the number of threads.
struct Threads {
  explicit Threads(int count) : before(at::get_num_threads()) {
    at::set_num_threads(count);
  }
  ~Threads() {
    at::set_num_threads(before);
  }
  int before;
};

struct Holder : torch::nn::Module {
  Holder(int64_t in, int64_t out)
      : layer(register_module("layer", nn::Linear(in, out))) {}
  nn::Linear layer;
};

constexpr int64_t kRows = 999, kColumns = 1003;

TEST(Dropout, KeepsAndScalesTheRightShare) {
  for (const double p : {0.05, 0.1, 0.5, 0.9}) {
    const auto mask = mask_of(1, {kRows, kColumns}, p);
    const auto kept = mask.ne(0);
    EXPECT_TRUE(torch::equal(
        mask.masked_select(kept),
        test::full({kept.sum().item<int64_t>()}, 1 / (1 - p))));
    const auto share = kept.to(torch::kDouble).mean().item<double>();
    EXPECT_NEAR(share, 1 - p, 4 * std::sqrt(p * (1 - p) / (kRows * kColumns)));
    // Each row and each column.
    for (const int64_t dim : {0, 1}) {
      const auto n = static_cast<double>(kept.size(dim));
      const auto z = kept.to(torch::kDouble)
                         .mean(dim)
                         .sub(1 - p)
                         .div(std::sqrt(p * (1 - p) / n));
      EXPECT_LT(z.abs().max().item<double>(), 5.5);
      EXPECT_NEAR(z.square().mean().item<double>(), 1, 0.2);
    }
  }
}

TEST(Dropout, ElementsAreIndependentOfTheirNeighbors) {
  const double p = 0.3;
  const auto z = mask_of(2, {kRows, kColumns}, p)
                     .ne(0)
                     .to(torch::kDouble)
                     .sub(1 - p)
                     .div(std::sqrt(p * (1 - p)));
  const auto other = mask_of(3, {kRows, kColumns}, p)
                         .ne(0)
                         .to(torch::kDouble)
                         .sub(1 - p)
                         .div(std::sqrt(p * (1 - p)));
  const auto expect_none = [](const Tensor& products) {
    EXPECT_NEAR(
        products.mean().item<double>(),
        0,
        4.5 / std::sqrt(static_cast<double>(products.numel())));
  };
  expect_none(z * other);
  for (const int64_t dim : {0, 1}) {
    for (const int64_t lag :
         {1, 2, 3, 4, 5, 7, 8, 16, 32, 63, 64, 65, 128, 192, 256, 512}) {
      const auto n = z.size(dim) - lag;
      expect_none(z.narrow(dim, 0, n) * z.narrow(dim, lag, n));
    }
  }
}

// LibTorch's scalar generator, after as many rounds.
TEST(Dropout, IsPhilox) {
  if (!test::test_device().is_cpu()) {
    GTEST_SKIP() << "another device draws by its own generator";
  }
  const auto mask = mask_of(4, {3000}, 0.5);
  torch::manual_seed(4);
  const auto seed =
      test::randint(std::numeric_limits<int64_t>::max(), {1}, at::kLong)
          .item<int64_t>();
  for (int64_t i = 0; i < mask.size(0); ++i) {
    at::philox_engine engine(
        static_cast<uint64_t>(seed),
        /*subsequence=*/0,
        static_cast<uint64_t>(i / 256 * 64 + i % 64));
    uint32_t word = 0;
    for (int64_t k = 0; k <= i % 256 / 64; ++k) {
      word = engine(/*n_rounds=*/7);
    }
    ASSERT_EQ(mask[i].item<float>(), word < 0x80000000 ? 0 : 2) << i;
  }
}

TEST(Dropout, IsTheSameForTheSameSeedAndNoOther) {
  const auto mask = mask_of(5, {kRows, kColumns}, 0.5);
  EXPECT_TRUE(torch::equal(mask_of(5, {kRows, kColumns}, 0.5), mask));
  EXPECT_FALSE(torch::equal(mask_of(6, {kRows, kColumns}, 0.5), mask));
  mask_of(5, {kRows, kColumns}, 0.5);
  EXPECT_FALSE(torch::equal(detail::dropout(torch::ones_like(mask), 0.5), mask))
      << "two calls in a row";
}

TEST(Dropout, DoesNotDependOnTheNumberOfThreads) {
  const Threads one(1);
  const auto expected = mask_of(7, {kRows, kColumns}, 0.2);
  for (const int count : {2, 3, 5}) {
    const Threads threads(count);
    EXPECT_TRUE(torch::equal(mask_of(7, {kRows, kColumns}, 0.2), expected));
  }
}

TEST(Dropout, TakesProbabilitiesNextTo0And1) {
  for (const double p : {1e-12, 1e-9}) {
    EXPECT_TRUE(torch::equal(mask_of(8, {1000}, p), test::ones({1000})));
  }
  for (const double p : {1 - 1e-9, 1 - 1e-12}) {
    EXPECT_FALSE(mask_of(8, {1000}, p).any().item<bool>());
  }
  const auto x = test::randn({3});
  EXPECT_TRUE(detail::dropout(x, 0).is_same(x));
}

TEST(Dropout, TakesEveryDtypeSizeAndLayout) {
  for (const int64_t size : {0, 1, 3, 255, 256, 257, 4099}) {
    const auto kept = mask_of(9, {size}, 0.5);
    for (const auto dtype :
         {at::kDouble,
          at::kFloat,
          at::kHalf,
          at::kBFloat16,
          at::kComplexDouble,
          at::kComplexFloat}) {
      const auto x = test::randn({size}).to(dtype);
      torch::manual_seed(9);
      const auto y = detail::dropout(x, 0.5);
      EXPECT_EQ(y.scalar_type(), dtype);
      EXPECT_TRUE(torch::equal(y, x * kept.to(dtype)));
    }
  }
  const auto image =
      test::randn({2, 3, 5, 7}).contiguous(at::MemoryFormat::ChannelsLast);
  torch::manual_seed(10);
  const auto y = detail::dropout(image, 0.5);
  EXPECT_TRUE(y.is_contiguous(at::MemoryFormat::ChannelsLast));
  EXPECT_TRUE(torch::equal(y, at::where(y.ne(0), 2 * image, 0)));
  EXPECT_GT(y.ne(0).sum().item<int64_t>(), 70);
}

TEST(Dropout, HasFirstAndSecondDerivatives) {
  const auto x = test::randn({50}).requires_grad_();
  const auto mask = mask_of(11, {50}, 0.4);
  torch::manual_seed(11);
  const auto y = detail::dropout(x, 0.4).pow(3).sum();
  const auto first = torch::autograd::grad(
      {y},
      {x},
      {},
      /*retain_graph=*/std::nullopt,
      /*create_graph=*/true)[0];
  EXPECT_LT(difference(first, 3 * mask.pow(3) * x.square()), 1e-4);
  const auto second = torch::autograd::grad({first.sum()}, {x})[0];
  EXPECT_LT(difference(second, 6 * mask.pow(3) * x), 1e-4);
}

// The layer draws its masks in blocks of rows, in forward and in backward.
TEST(Dropout, OfALinearLayerIsThatOfTheWholeInput) {
  if (!test::test_device().is_cpu()) {
    GTEST_SKIP() << "another device draws by its own generator";
  }
  for (const auto dtype : {at::kDouble, at::kFloat}) {
    for (const int64_t columns : {1, 300, 1003}) {
      torch::manual_seed(12);
      auto model = test::make_module<Holder>(columns, 6);
      model->to(dtype);
      const auto peft = get_peft_model(
          *model, LoraConfig(3).lora_dropout(0.3).target_modules({"layer"}));
      randomize(peft);
      const auto& adapter = *peft.layers()[0].second->find_adapter("default");
      const auto A = adapter.lora_A->weight, B = adapter.lora_B->weight;
      const auto x = test::randn({3, 333, columns}).to(dtype).requires_grad_();
      const auto run = [&](auto forward) {
        torch::manual_seed(13);
        const auto y = forward();
        const auto gradients =
            torch::autograd::grad({y.sin().sum()}, {x, A, B});
        return std::pair(y.detach(), gradients);
      };
      const auto [y, gradients] = run([&] { return model->layer(x); });
      const auto [expected, expected_gradients] = run([&] {
        const auto mask = detail::dropout(torch::ones_like(x), 0.3);
        const auto update = at::linear(at::linear(x * mask, A), B);
        return model->layer->base_forward(x) + adapter.scaling * update;
      });
      const double tolerance = dtype == at::kDouble ? 1e-12 : 1e-4;
      EXPECT_LT(difference(y, expected), tolerance);
      for (size_t i = 0; i < gradients.size(); ++i) {
        EXPECT_LT(
            difference(gradients[i], expected_gradients[i]) /
                expected_gradients[i].abs().max().item<double>(),
            tolerance);
      }
    }
  }
}

// In the factor's dtype each of the 64 blocks would round the sum.
TEST(Dropout, AHalfPrecisionGradientIsSummedInFp32) {
  torch::manual_seed(14);
  auto model = test::make_module<Holder>(4096, 3);
  model->to(at::kBFloat16);
  const auto peft = get_peft_model(
      *model,
      LoraConfig(2).lora_dropout(0.1).target_modules({"layer"}),
      "default",
      InjectOptions().autocast_adapter_dtype(false));
  const auto& adapter = *peft.layers()[0].second->find_adapter("default");
  {
    torch::NoGradGuard no_grad;
    adapter.lora_B->weight.fill_(0.5);
  }
  const auto x = test::ones({2048, 4096}, at::kBFloat16);
  model->layer(x).sum().backward();
  const auto& gradient = adapter.lora_A->weight.grad();
  EXPECT_EQ(gradient.scalar_type(), at::kBFloat16);
  // About 0.9 of the 2048 rows are kept in each column, scaled by 1 / 0.9.
  const auto mean = gradient.to(at::kDouble).mean().item<double>();
  const auto expected = 2048 * 3 * 0.5 * adapter.scaling;
  EXPECT_NEAR(mean, expected, 5e-3 * expected);
}

} // namespace
} // namespace torchlora::test
