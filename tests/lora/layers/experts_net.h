#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layers/experts.h>
#include <torchlora/model.h>
#include <torchlora/nn/linear.h>

#include "support.h"

namespace torchlora::experts_test {

using at::Tensor;

/// As a model has them: x [T, 6] and the expert of each row → [T, 7].
struct ExpertsImpl : torch::nn::Cloneable<ExpertsImpl>, nn::StackedExperts {
  ExpertsImpl(int64_t experts, bool is_transposed)
      : StackedExperts(is_transposed), experts_(experts) {
    ExpertsImpl::reset();
  }
  void reset() override {
    const auto parameter = [&](const char* name, int64_t out, int64_t in) {
      const auto sizes = experts_ == 1 ? std::vector<int64_t>{out, in}
          : is_transposed()            ? std::vector<int64_t>{experts_, in, out}
                            : std::vector<int64_t>{experts_, out, in};
      return register_parameter(name, test::randn(sizes).mul_(0.4));
    };
    up_proj = parameter("up_proj", 10, 6);
    scale = register_parameter("scale", test::ones({10}));
    down_proj = parameter("down_proj", 7, 10);
  }
  Tensor forward(const Tensor& x, const Tensor& ids) {
    const auto [order, counts] = nn::sort_by_expert(ids, experts_);
    auto h = expert_linear("up_proj", x.index_select(0, order), counts);
    h = expert_linear("down_proj", h.tanh() * scale, counts);
    return h.index_select(0, order.argsort());
  }
  int64_t experts_;
  Tensor up_proj, scale, down_proj;
};
TORCH_MODULE(Experts);

struct NetImpl : torch::nn::Module {
  explicit NetImpl(int64_t experts = 4, bool is_transposed = false)
      : layer(register_module("layer", Experts(experts, is_transposed))),
        head(register_module("head", nn::Linear(7, 3))) {}
  Experts layer;
  nn::Linear head;
  Tensor own = register_parameter("own", test::ones({2, 2}));
};

inline const std::vector<std::string> kBoth{"layer.down_proj", "up_proj"};
inline const auto kIds = test::tensor({3, 0, 2, 2, 0, 3, 3, 0, 2});

inline LoraConfig config(std::vector<std::string> parameters = kBoth) {
  return LoraConfig(2).lora_alpha(3).target_parameters(std::move(parameters));
}

} // namespace torchlora::experts_test
