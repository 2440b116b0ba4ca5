#include <torchlora/train/optimizer.h>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/train/schedule.h>

#include "device/device.h"

namespace torchlora::train {
namespace {

TEST(AdamW, FirstStepsFollowTheFormula) {
  TrainingArguments args;
  args.learning_rate = 0.1;
  args.weight_decay = 0.5;
  const NamedTensors parameters = {
      {"w", test::full({1}, 2.0, at::kDouble).requires_grad_()},
      {"bias", test::full({1}, 2.0, at::kDouble).requires_grad_()}};
  const auto optimizer = make_adamw(parameters, args);
  const auto peaks = learning_rates(*optimizer);
  double w[] = {2, 2}, m = 0, v = 0;
  for (int step = 1; step <= 3; ++step) {
    const double lr = 0.1 / step, g = 0.3 * step;
    scale_learning_rates(*optimizer, peaks, 1.0 / step);
    for (const auto& [name, parameter] : parameters) {
      parameter.mutable_grad() = test::full({1}, g, at::kDouble);
    }
    optimizer->step();
    m = 0.9 * m + 0.1 * g;
    v = 0.999 * v + 0.001 * g * g;
    const double update = lr * (m / (1 - std::pow(0.9, step))) /
        (std::sqrt(v / (1 - std::pow(0.999, step))) + 1e-8);
    for (int i = 0; i < 2; ++i) {
      const double decay = i == 0 ? 0.5 : 0;
      w[i] = w[i] * (1 - lr * decay) - update;
      EXPECT_NEAR(parameters[i].second.item<double>(), w[i], 1e-12);
    }
  }
  const auto state = optimizer_state(*optimizer, parameters);
  ASSERT_EQ(state.size(), 6U);
  EXPECT_EQ(state[0].first, "w.exp_avg");
  EXPECT_NEAR(state[0].second.item<double>(), m, 1e-12);
  EXPECT_NEAR(state[1].second.item<double>(), v, 1e-12);
  EXPECT_EQ(state[2].second.item<int64_t>(), 3);
}

TEST(Clipping, ScalesOnlyWhatIsTooLong) {
  const auto a = test::zeros({2}).requires_grad_();
  const auto b = test::zeros({1}).requires_grad_();
  const NamedTensors parameters = {{"a", a}, {"b", b}};
  a.mutable_grad() = test::tensor({2.f, 3.f});
  b.mutable_grad() = test::tensor({6.f});
  EXPECT_DOUBLE_EQ(grad_norm(parameters).item<double>(), 7);
  clip_gradients(parameters, grad_norm(parameters), 10);
  EXPECT_FLOAT_EQ(b.grad().item<float>(), 6);
  clip_gradients(parameters, grad_norm(parameters), 3.5);
  EXPECT_NEAR(b.grad().item<double>(), 3, 1e-6);
  EXPECT_NEAR(grad_norm(parameters).item<double>(), 3.5, 1e-6);
}

// transformers' get_scheduler: factors of the learning rate at steps 0, 1, …
TEST(LrScheduleTest, FollowsTransformers) {
  const auto factors = [](const std::string& name, int64_t warmup) {
    const auto schedule = make_lr_schedule(name, warmup, 6);
    std::vector<double> values;
    for (int64_t step = 0; step <= 6; ++step) {
      values.push_back(schedule(step));
    }
    return values;
  };
  using Values = std::vector<double>;
  const auto expect_near = [](const Values& a, const Values& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(a[i], b[i], 1e-12) << i;
    }
  };
  expect_near(factors("linear", 2), {0, .5, 1, .75, .5, .25, 0});
  expect_near(
      factors("cosine", 2),
      {0, .5, 1, .5 + std::sqrt(.125), .5, .5 - std::sqrt(.125), 0});
  expect_near(factors("constant", 2), {1, 1, 1, 1, 1, 1, 1});
  expect_near(factors("constant_with_warmup", 2), {0, .5, 1, 1, 1, 1, 1});
  expect_near(factors("linear", 0), {1, 5 / 6., 4 / 6., .5, 2 / 6., 1 / 6., 0});
}

TEST(LrScheduleTest, UnknownNamesListTheKnown) {
  try {
    make_lr_schedule("polynomial", 0, 1);
    FAIL();
  } catch (const c10::ValueError& error) {
    EXPECT_NE(
        std::string(error.what())
            .find("linear, cosine, constant, constant_with_warmup"),
        std::string::npos);
  }
}

TEST(LrScheduleTest, WarmupIsANumberOfStepsOrAShareRoundedUp) {
  EXPECT_EQ(whole_steps(3, 25), 3);
  EXPECT_EQ(whole_steps(0.1, 25), 3);
  EXPECT_EQ(whole_steps(0, 25), 0);
}

} // namespace
} // namespace torchlora::train
