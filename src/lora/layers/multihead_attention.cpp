#include <torchlora/lora/layers/multihead_attention.h>

namespace torchlora {

LoraMultiheadAttention::LoraMultiheadAttention(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    BaseWeightAccessor accessor)
    : LoraLinear(base_layer, std::move(accessor)),
      base_(dynamic_cast<nn::MultiheadAttentionImpl*>(base_layer.get())) {
  const auto* attention = base_layer->as<torch::nn::MultiheadAttentionImpl>();
  TORCH_INTERNAL_ASSERT(attention);
  TORCH_CHECK_VALUE(
      attention->_qkv_same_embed_dim,
      "[MultiheadAttention] only same embed for query/key/value is supported, "
      "found embed_dim ",
      attention->options.embed_dim(),
      ", kdim ",
      attention->options.kdim(),
      ", vdim ",
      attention->options.vdim(),
      "; leave the layer out by exclude_modules");
}

void LoraMultiheadAttention::check_config(const LoraConfig& config) const {
  TORCH_CHECK_VALUE(
      base_ || !config.lora_bias(),
      "[update_layer] lora_bias is not supported for a "
      "torch::nn::MultiheadAttention, which may use its weight in parts; use "
      "torchlora::nn::MultiheadAttention");
}

at::Tensor LoraMultiheadAttention::rows(const at::Tensor& tensor) const {
  return base_ ? base_->projected_rows(tensor) : LoraLinear::rows(tensor);
}

} // namespace torchlora
