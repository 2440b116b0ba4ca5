#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/io/safetensors.h>
#include <torchlora/model.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

#include "device/device.h"

namespace torchlora {

namespace fs = std::filesystem;
using at::Tensor;
using Names = std::vector<std::string>;

/// The head has the table's memory, or was assigned the table itself.
enum class TiedBy { kNone, kMemory, kAssigned };

struct TokenNetImpl : torch::nn::Module {
  explicit TokenNetImpl(
      TiedBy tie = TiedBy::kNone,
      const torch::nn::EmbeddingOptions& options = {12, 6})
      : embed_tokens(register_module("embed_tokens", nn::Embedding(options))) {
    to(test::test_device()); // a tie does not outlive a move
    if (tie == TiedBy::kMemory) {
      lm_head = nn::Linear(nn::LinearImpl::from_weight(embed_tokens->weight));
    }
    register_module("lm_head", lm_head);
    if (tie == TiedBy::kAssigned) {
      lm_head->weight = embed_tokens->weight;
    }
  }

  Tensor forward(const Tensor& ids) {
    return lm_head(up(embed_tokens(ids)).tanh());
  }

  nn::Embedding embed_tokens;
  nn::Linear up = register_module("up", nn::Linear(6, 6));
  nn::Linear lm_head{torch::nn::LinearOptions(6, 12).bias(false)};
};

class Tokens : public testing::Test {
 protected:
  std::shared_ptr<TokenNetImpl> make(
      TiedBy tie = TiedBy::kNone,
      const torch::nn::EmbeddingOptions& options = {12, 6}) {
    torch::NoGradGuard no_grad;
    auto model = test::make_module<TokenNetImpl>(tie, options);
    model->embed_tokens->weight.copy_(
        reference_.tensor("base.embed_tokens.weight"));
    model->up->weight.copy_(reference_.tensor("base.up.weight"));
    model->up->bias.copy_(reference_.tensor("base.up.bias"));
    if (tie == TiedBy::kNone) {
      model->lm_head->weight.copy_(reference_.tensor("base.lm_head.weight"));
    }
    return model;
  }
  Tensor run(TokenNetImpl& model) {
    torch::NoGradGuard no_grad;
    return model.forward(ids_);
  }
  static LoraConfig config(const TrainableTokenIndices& indices) {
    return LoraConfig(2).target_modules({"up"}).trainable_token_indices(
        indices);
  }
  static Tensor delta(
      const PeftModel& peft,
      const std::string& adapter = "default") {
    return peft.state_dict(adapter)
        ["base_model.model.embed_tokens.token_adapter."
         "trainable_tokens_delta"];
  }

  static inline const fs::path folder_ =
      fs::path(TORCHLORA_TEST_DATA) / "lora" / "tokens";
  io::SafetensorsFile reference_{folder_ / "reference.safetensors"};
  Tensor ids_ = test::on_device(reference_.tensor("ids"));
};

} // namespace torchlora
