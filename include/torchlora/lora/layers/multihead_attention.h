#pragma once

#include <torch/nn/modules/activation.h>

#include <torchlora/lora/layers/linear.h>
#include <torchlora/nn/multihead_attention.h>

namespace torchlora {

/// The LoRA layer for `MultiheadAttention` of `torchlora::nn` and `torch::nn`.
/// It adapts the projection `in_proj_weight` [3 E, E] to queries, keys and
/// values by A [r, E] and B [3 E, r]. If query, key and value inputs differ, it
/// applies the rows of W and B for each input separately; it never makes a
/// dense adapted weight. A `LoraLinear` adapts the module's `out_proj`, with
/// factors of its own.
///
/// PEFT's `lora.MultiheadAttention`. Only PEFT applies the update of `out_proj`
/// twice and ignores dropout; this layer applies it once, with dropout.
class TORCHLORA_API LoraMultiheadAttention : public LoraLinear {
 public:
  /// Makes a LoRA layer without adapters. `base_layer` is a
  /// `torch::nn::MultiheadAttention` (or the `torchlora::nn` one) with equal
  /// query, key and value sizes.
  LoraMultiheadAttention(
      const std::shared_ptr<Module>& base_layer,
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

  /// Returns false: one forward projects queries, keys and values in separate
  /// products, so a variant that compresses its input would see three inputs in
  /// turn.
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
  /// The base layer if it is a `torchlora::nn` layer; nullptr for a `torch::nn`
  /// one, which the weight overlay adapts.
  nn::MultiheadAttentionImpl* base_;
};

} // namespace torchlora
