#pragma once

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
      BaseWeightAccessor accessor);

 protected:
  /// It would see queries, keys and values by turns.
  bool supports_velora() const override {
    return false;
  }
  void check_config(const LoraConfig& config) const override;
  at::Tensor rows(const at::Tensor& tensor) const override;

 private:
  /// nullptr for an unmodified layer.
  nn::MultiheadAttentionImpl* base_;
};

} // namespace torchlora
