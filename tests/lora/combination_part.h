#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <torchlora/lora/layer.h>

namespace torchlora::test {

/// Relative to the larger of the norm of `expected` and `magnitude`.
inline double relative_error(
    const at::Tensor& found,
    const at::Tensor& expected,
    double magnitude = 0) {
  EXPECT_EQ(found.sizes(), expected.sizes());
  const auto norm = expected.norm().item<double>();
  const auto error = (found.to(at::kDouble) - expected).norm().item<double>();
  return error / std::max({norm, magnitude, 1e-3});
}

/// A LoRA layer, and the parameters of the reference that take its place.
struct Part {
  std::shared_ptr<LoraLayer> layer;
  at::Tensor W = {}, b = {};
  /// In the reference.
  at::Tensor weight = {}, bias = {};

  /// The tensors of an adapter in fp64, as leaves of a graph.
  std::map<std::string, at::Tensor> leaves(const std::string& adapter) const {
    std::map<std::string, at::Tensor> result;
    for (const auto& [key, tensor] : layer->find_adapter(adapter)->tensors()) {
      result[key] = tensor.detach()
                        .to(at::kDouble)
                        .requires_grad_(tensor.requires_grad());
    }
    return result;
  }

  /// W' by the papers' formulas.
  at::Tensor adapted_weight(
      const LoraAdapter& adapter,
      std::map<std::string, at::Tensor>& leaves) const {
    auto A = leaves["lora_A.weight"];
    const auto& B = leaves["lora_B.weight"];
    const auto base = layer->base_weight();
    if (const auto E = base.experts()) {
      const auto r = A.size(0) / E;
      const auto delta =
          at::einsum("erm,ore->eom", {A.view({E, r, -1}), B.view({-1, r, E})});
      return W +
          adapter.scaling *
          (base.layout() == WeightLayout::kInOut ? delta.transpose(1, 2)
                                                 : delta);
    }
    if (leaves.contains("lora_diag")) {
      A = leaves["lora_diag"].unsqueeze(1) * A;
    }
    const bool is_in_out = base.layout() == WeightLayout::kInOut;
    const auto delta = adapter.scaling * at::mm(B.flatten(1), A.flatten(1));
    auto matrix = is_in_out ? W.flatten(1).t() : W.flatten(1);
    matrix = matrix + delta;
    if (leaves.contains("lora_magnitude_vector")) {
      const auto norm = matrix.detach().norm(2, {1});
      matrix = matrix *
          (leaves["lora_magnitude_vector"].flatten() / norm).unsqueeze(1);
    }
    return (is_in_out ? matrix.t() : matrix).reshape(W.sizes());
  }
};

} // namespace torchlora::test
