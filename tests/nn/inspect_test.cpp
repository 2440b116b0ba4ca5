#include <limits>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/nn/inspect.h>

#include "device/device.h"

namespace torchlora::nn {
namespace {

struct Net : torch::nn::Module {
  Net() {
    first = register_module("first", torch::nn::Linear(3, 4));
    second = register_module("second", torch::nn::Linear(4, 2));
    bound = register_buffer("bound", test::zeros({}));
  }
  torch::nn::Linear first{nullptr}, second{nullptr};
  at::Tensor bound;
};

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

TEST(FindNonfinite, NamesEveryTensorWithANaNOrAnInf) {
  Net net;
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(find_nonfinite(net).empty());
  net.to(at::kBFloat16);
  net.first->weight[1][2] = kNaN;
  net.second->bias[0] = -kInf;
  EXPECT_EQ(
      find_nonfinite(net),
      (std::vector<std::string>{"first.weight", "second.bias"}));
}

TEST(FindNonfinite, ABufferMayBeInfiniteButNotNaN) {
  Net net;
  net.bound.fill_(kInf);
  EXPECT_TRUE(find_nonfinite(net).empty());
  net.bound.fill_(kNaN);
  EXPECT_EQ(find_nonfinite(net), (std::vector<std::string>{"bound"}));
}

} // namespace
} // namespace torchlora::nn
