#pragma once

#include <torch/torch.h>

#include <torchlora/nn/linear.h>
#include <torchlora/nn/pretrained.h>

#include "device/device.h"

namespace torchlora::train {

/// A causal language model of a few hundred weights: each token's state is
/// made of the token and its predecessor. `unused` is in the tree and never
/// called.
struct ToyModelImpl : torch::nn::Module, nn::CausalLM {
  static constexpr int64_t kVocabulary = 11, kHidden = 6;

  ToyModelImpl() {
    torch::manual_seed(3);
    embed =
        register_module("embed", torch::nn::Embedding(kVocabulary, kHidden));
    proj = register_module("proj", nn::Linear(kHidden, kHidden));
    unused = register_module("unused", nn::Linear(kHidden, kHidden));
    lm_head_ = register_module("lm_head", nn::Linear(kHidden, kVocabulary));
    to(test::test_device());
  }

  at::Tensor hidden_states(
      const at::Tensor& input_ids,
      const at::Tensor& /*attention_mask*/) override {
    const auto state = embed(input_ids);
    const auto before = torch::constant_pad_nd(
        state.slice(1, 0, state.size(1) - 1), {0, 0, 1, 0});
    ++num_forwards;
    return torch::tanh(proj(state + 0.5 * before));
  }
  nn::LmHead lm_head() const override {
    return nn::LmHead::of(*lm_head_);
  }
  torch::nn::Module& module() override {
    return *this;
  }
  std::string model_type() const override {
    return "toy";
  }
  std::string architecture() const override {
    return "ToyModel";
  }
  std::string name_or_path() const override {
    return "toy";
  }

  torch::nn::Embedding embed{nullptr};
  nn::Linear proj{nullptr}, unused{nullptr}, lm_head_{nullptr};
  int64_t num_forwards = 0;
};
TORCH_MODULE(ToyModel);

} // namespace torchlora::train
