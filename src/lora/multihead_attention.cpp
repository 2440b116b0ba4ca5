#include <torchlora/lora/multihead_attention.h>

namespace torchlora {

LoraMultiheadAttention::LoraMultiheadAttention(
    const std::shared_ptr<torch::nn::Module>& base_layer,
    BaseWeightAccessor accessor)
    : LoraLinear(base_layer, std::move(accessor)),
      base_(dynamic_cast<nn::MultiheadAttentionImpl*>(base_layer.get())) {
  TORCH_INTERNAL_ASSERT(base_);
  TORCH_CHECK_VALUE(
      base_->_qkv_same_embed_dim,
      "[MultiheadAttention] only same embed for query/key/value is supported, "
      "found embed_dim ",
      base_->options.embed_dim(),
      ", kdim ",
      base_->options.kdim(),
      ", vdim ",
      base_->options.vdim(),
      "; leave the layer out by exclude_modules");
}

at::Tensor LoraMultiheadAttention::rows(const at::Tensor& tensor) const {
  return base_->projected_rows(tensor);
}

} // namespace torchlora
