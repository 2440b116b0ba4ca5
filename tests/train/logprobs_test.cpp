#include <torchlora/train/logprobs.h>

#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/nn/compute.h>

#include "device/device.h"

namespace torchlora::train {
namespace {

struct Case {
  at::Tensor hidden, weight, labels;
};

Case random_case(
    int64_t tokens,
    int64_t hidden_size,
    int64_t vocabulary,
    at::ScalarType dtype) {
  torch::manual_seed(1);
  return {
      test::randn({tokens, hidden_size}, dtype).requires_grad_(),
      test::randn({vocabulary, hidden_size}, dtype),
      test::randint(vocabulary, {tokens}, torch::kLong)};
}

at::Tensor plain_logits(const Case& c, double softcap) {
  const auto logits = c.hidden.matmul(c.weight.t());
  return softcap > 0 ? (logits / softcap).tanh() * softcap : logits;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Softcap; tiles that divide the sizes and tiles that do not.
class ScoreTokens
    : public testing::TestWithParam<std::tuple<double, LogProbTiling>> {};

TEST_P(ScoreTokens, EqualsLogSoftmaxWithGradients) {
  const auto& [softcap, tiling] = GetParam();
  const auto c = random_case(13, 6, 29, at::kDouble);
  const auto weights = test::randn({13}, at::kDouble);

  const auto logits = plain_logits(c, softcap);
  const auto log_probs = logits.log_softmax(1);
  const auto logps = log_probs.gather(1, c.labels.unsqueeze(1)).squeeze(1);
  const auto expected_grad =
      torch::autograd::grad({(logps * weights).sum()}, {c.hidden})[0];

  const auto scores =
      score_tokens(c.hidden, {c.weight, softcap}, c.labels, tiling);
  const auto grad =
      torch::autograd::grad({(scores.logps * weights).sum()}, {c.hidden})[0];

  EXPECT_LT(difference(scores.logps, logps), 1e-12);
  EXPECT_LT(difference(grad, expected_grad), 1e-12);
  EXPECT_LT(difference(scores.mean_logits, logits.mean(1)), 1e-12);
  EXPECT_LT(
      difference(scores.entropy, -(log_probs.exp() * log_probs).sum(1)), 1e-12);
  EXPECT_TRUE(scores.is_top1.equal(logits.argmax(1).eq(c.labels)));
}

TEST_P(ScoreTokens, SeeTheRowsThatTakeThePlaceOfTheHeads) {
  const auto& [softcap, tiling] = GetParam();
  auto c = random_case(13, 6, 29, at::kDouble);
  const auto weights = test::randn({13}, at::kDouble);
  nn::LmHead head{c.weight.clone(), softcap};
  const auto index = test::tensor({0, 7, 8, 28});
  const auto rows =
      test::randn({4, 6}, torch::dtype(at::kDouble)).requires_grad_();
  c.weight = c.weight.index_copy(0, index, rows);
  head.replaced_rows = nn::ReplacedRows{{0, 7, 8, 28}, index, rows};

  const auto logits = plain_logits(c, softcap);
  EXPECT_LT(difference(head.logits(c.hidden), logits), 1e-12);
  const auto logps =
      logits.log_softmax(1).gather(1, c.labels.unsqueeze(1)).squeeze(1);
  const auto expected =
      torch::autograd::grad({(logps * weights).sum()}, {c.hidden, rows});
  const auto scores = score_tokens(c.hidden, head, c.labels, tiling);
  const auto grads =
      torch::autograd::grad({(scores.logps * weights).sum()}, {c.hidden, rows});
  EXPECT_LT(difference(scores.logps, logps), 1e-12);
  EXPECT_LT(difference(grads[0], expected[0]), 1e-12);
  EXPECT_LT(difference(grads[1], expected[1]), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(
    Tiles,
    ScoreTokens,
    testing::Combine(
        testing::Values(0.0, 2.0),
        testing::Values(
            LogProbTiling{4, 8},
            LogProbTiling{13, 29},
            LogProbTiling{1, 1},
            LogProbTiling{})));

TEST(ScoreTokensEdges, FirstOfEqualMaximaIsTheArgMax) {
  const auto hidden = test::ones({2, 1});
  // Words 1 and 3 (in different tiles) and 1 and 2 (in one) tie.
  const auto weight = test::tensor({0.f, 5.f, 5.f, 5.f}).view({4, 1});
  const auto scores =
      score_tokens(hidden, {weight, 0}, test::tensor({1, 3}), {2, 2});
  EXPECT_TRUE(scores.is_top1[0].item<bool>());
  EXPECT_FALSE(scores.is_top1[1].item<bool>());
}

TEST(ScoreTokensEdges, LargeLogitsDoNotOverflow) {
  const auto hidden = test::ones({1, 1});
  const auto weight = test::tensor({-1e4f, 1e4f, 9999.f}).view({3, 1});
  const auto scores =
      score_tokens(hidden, {weight, 0}, test::tensor({2}), {1, 1});
  EXPECT_NEAR(scores.logps.item<double>(), -1 - std::log1p(std::exp(-1)), 1e-3);
}

TEST(ScoreTokensEdges, HalfPrecisionHeadFollowsEitherRoute) {
  auto c = random_case(9, 32, 50, at::kFloat);
  const auto exact = score_tokens(c.hidden, {c.weight, 3}, c.labels);
  for (const auto route :
       {nn::ComputeRoute::kNative, nn::ComputeRoute::kUpcast}) {
    nn::set_compute_route(route);
    const auto hidden = c.hidden.detach().to(at::kBFloat16).requires_grad_();
    const auto scores = score_tokens(
        hidden, {c.weight.to(at::kBFloat16), 3}, c.labels, {4, 16});
    EXPECT_EQ(scores.logps.scalar_type(), at::kFloat);
    EXPECT_LT(difference(scores.logps, exact.logps), 0.1);
    const auto grad = torch::autograd::grad({scores.logps.sum()}, {hidden})[0];
    EXPECT_EQ(grad.scalar_type(), at::kBFloat16);
    const auto expected = torch::autograd::grad(
        {exact.logps.sum()}, {c.hidden}, {}, /*retain_graph=*/true)[0];
    EXPECT_LT(
        (grad.to(at::kFloat) - expected).norm().item<double>(),
        0.02 * expected.norm().item<double>());
  }
  nn::set_compute_route(std::nullopt);
}

TEST(ScoreTokensEdges, AHeadThatWouldTrainIsRefused) {
  const auto weight = test::ones({3, 2}).requires_grad_();
  EXPECT_THROW(
      score_tokens(test::ones({1, 2}), {weight, 0}, test::tensor({0})),
      c10::ValueError);
}

/// Counts the bytes that the CPU allocator has given out.
struct AllocationCounter : c10::MemoryReportingInfoBase {
  void reportMemoryUsage(
      void* /*ptr*/,
      int64_t size,
      size_t /*allocated*/,
      size_t /*reserved*/,
      c10::Device /*device*/) override {
    now += size;
    peak = std::max(peak, now);
  }
  bool memoryProfilingEnabled() const override {
    return true;
  }
  int64_t now = 0, peak = 0;
};

TEST(ScoreTokensEdges, MemoryIsThatOfATile) {
  if (!test::test_device().is_cpu()) {
    GTEST_SKIP() << "counts what the CPU allocates";
  }
  const int64_t tokens = 512, vocabulary = 4096;
  const auto c = random_case(tokens, 8, vocabulary, at::kFloat);
  const LogProbTiling tiling{64, 256};
  const int64_t tile = tiling.tokens * tiling.vocabulary * sizeof(float);
  const auto counter = std::make_shared<AllocationCounter>();
  {
    c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
    const auto scores =
        score_tokens(c.hidden, {c.weight, 30}, c.labels, tiling);
    torch::autograd::grad({scores.logps.sum()}, {c.hidden});
  }
  EXPECT_GT(counter->peak, tile);
  // A few tensors of a tile's size and some of [tokens] or [tokens, hidden];
  // the logits as a whole would be 128 tiles.
  EXPECT_LT(counter->peak, 8 * tile);
}

} // namespace
} // namespace torchlora::train
