#pragma once

#include <torch/nn/modules/embedding.h>
#include <torch/nn/modules/linear.h>

#include <torchlora/types.h>

namespace torchlora::nn {

/// Returns the `weight` member of a `torch::nn::Linear` or `Embedding`, which
/// can differ from the registered parameter; nullptr for other modules.
inline const Tensor* weight_member(const Module& module) {
  if (const auto* linear = module.as<torch::nn::LinearImpl>()) {
    return &linear->weight;
  }
  const auto* table = module.as<torch::nn::EmbeddingImpl>();
  return table ? &table->weight : nullptr;
}

} // namespace torchlora::nn
