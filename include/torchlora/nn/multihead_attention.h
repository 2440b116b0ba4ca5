#pragma once

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/nn/modules/activation.h>
#include <torch/nn/pimpl.h>

#include <torchlora/nn/linear.h>
#include <torchlora/nn/redirect.h>

namespace torchlora::nn {

/// `torch::nn::MultiheadAttention` that can be adapted and whose matrix
/// products follow the CPU (`nn/compute.h`). An adapter of it is two: one of
/// `in_proj_weight` and one of `out_proj`, which is an `nn::Linear` under
/// LibTorch's handle.
///
/// With a key and value size of its own (`kdim`, `vdim`) it computes, but is
/// refused as a target, as in PEFT.
class TORCHLORA_API MultiheadAttentionImpl
    : public torch::nn::MultiheadAttentionImpl,
      public Redirectable {
 public:
  /// @{
  /// As `torch::nn::MultiheadAttention`'s; that of a `base` takes its tensors.
  MultiheadAttentionImpl(int64_t embed_dim, int64_t num_heads)
      : MultiheadAttentionImpl(
            torch::nn::MultiheadAttentionOptions(embed_dim, num_heads)) {}
  explicit MultiheadAttentionImpl(
      const torch::nn::MultiheadAttentionOptions& options_);
  explicit MultiheadAttentionImpl(
      const torch::nn::MultiheadAttentionImpl& base);
  /// @}

  /// `query` [L, N, E], `key` and `value` [S, N, E] → output [L, N, E] and,
  /// with `need_weights`, the attention weights [N, L, S], or [N, heads, L, S]
  /// if they are not averaged. `key_padding_mask` [N, S], true where a key is
  /// left out; `attn_mask` [L, S] or [N · heads, L, S], added to the scores.
  /// Either may be boolean (true: left out) or floating (added). Without the
  /// weights the attention is `scaled_dot_product_attention`. What is the same
  /// tensor is projected at once.
  std::tuple<at::Tensor, at::Tensor> forward(
      const at::Tensor& query,
      const at::Tensor& key,
      const at::Tensor& value,
      const at::Tensor& key_padding_mask = {},
      bool need_weights = true,
      const at::Tensor& attn_mask = {},
      bool average_attn_weights = true);

  /// The projection by `in_proj_weight`, [*, E] → [*, 3 E].
  at::Tensor base_forward(const at::Tensor& input) override;
  /// "out_proj"
  std::vector<std::string> adapted_children() const override;
  /// Throws while the layer is adapted.
  std::shared_ptr<torch::nn::Module> clone(
      const std::optional<torch::Device>& device = std::nullopt) const override;

  /// Of a tensor with 3 E rows those that the forward at work in this thread
  /// projects by; all outside of one.
  at::Tensor projected_rows(const at::Tensor& tensor) const;

 private:
  void adopt_out_proj();
  LinearImpl& projection();
  at::Tensor project(const at::Tensor& input, int64_t first, int64_t parts);
  std::tuple<at::Tensor, at::Tensor, at::Tensor> project_inputs(
      const at::Tensor& query,
      const at::Tensor& key,
      const at::Tensor& value);
};
TORCH_MODULE(MultiheadAttention);

} // namespace torchlora::nn
