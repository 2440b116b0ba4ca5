#pragma once

#include <torch/nn/modules/activation.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/nn/multihead_attention.h>

namespace torchlora {

/// LoRA for the projection of `nn::MultiheadAttention`, or of `torch::nn`'s, to
/// queries, keys and values: A [r, E], B [3 E, r], applied a part at a time
/// where the inputs differ, never as a dense weight. The layer's `out_proj`
/// gets an adapter of its own, a `LoraLinear`. PEFT's
/// `lora.MultiheadAttention`, which applies the update of `out_proj` twice and
/// no dropout.
class TORCHLORA_API LoraMultiheadAttention : public LoraLinear {
 public:
  /// `base_layer` is a `torch::nn::MultiheadAttention`.
  LoraMultiheadAttention(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraLinear(base_layer, std::move(accessor)),
        base_(dynamic_cast<nn::MultiheadAttentionImpl*>(base_layer.get())) {
    const auto* attention = base_layer->as<torch::nn::MultiheadAttentionImpl>();
    TORCH_INTERNAL_ASSERT(attention);
    TORCH_CHECK_VALUE(
        attention->_qkv_same_embed_dim,
        "[MultiheadAttention] only same embed for query/key/value is "
        "supported, found embed_dim ",
        attention->options.embed_dim(),
        ", kdim ",
        attention->options.kdim(),
        ", vdim ",
        attention->options.vdim(),
        "; leave the layer out by exclude_modules");
  }
  ~LoraMultiheadAttention() override;

  /// A variant would see queries, keys and values by turns.
  bool is_linear() const override {
    return false;
  }

 protected:
  void check_config(const LoraConfig& config) const override {
    TORCH_CHECK_VALUE(
        base_ || !config.lora_bias(),
        "[update_layer] lora_bias is not supported for a "
        "torch::nn::MultiheadAttention, which may use its weight in parts; use "
        "torchlora::nn::MultiheadAttention");
  }
  Tensor rows(const LayerCall& call, const Tensor& tensor) const override {
    return base_ ? base_->projected_rows(tensor) : call.narrow(tensor);
  }

 private:
  /// nullptr for an unmodified layer.
  nn::MultiheadAttentionImpl* base_;
};

} // namespace torchlora
