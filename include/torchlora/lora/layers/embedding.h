#pragma once

#include <torchlora/lora/layer.h>
#include <torchlora/nn/embedding.h>

namespace torchlora {

/// LoRA for `nn::Embedding`: a looked-up row of W is one of W + scaling · B A,
/// times `embed_scale`. Dropout does not act on indices. With `max_norm` it is
/// the adapted row that is held to the norm, so that a merge changes nothing
/// (PEFT holds W and A to it); W itself is not changed by a forward.
/// PEFT's `lora.Embedding`, its tensors `lora_embedding_A` and
/// `lora_embedding_B`.
class TORCHLORA_API LoraEmbedding : public LoraLayer {
 public:
  /// PEFT's names for the factors of embeddings.
  static constexpr FactorNames kFactorNames{
      "lora_embedding_A",
      "lora_embedding_B",
      /*are_modules=*/false};

  /// `base_layer` is a `torch::nn::Embedding`.
  LoraEmbedding(
      const std::shared_ptr<torch::nn::Module>& base_layer,
      BaseWeightAccessor accessor);

 protected:
  bool base_forward_writes() const override {
    return base_->options.max_norm().has_value();
  }
  WeightUse weight_use() const override {
    return WeightUse::kEmbedding;
  }
  init::Factors construct_factors(const LoraConfig& config, int64_t r)
      const override;
  /// Those that are true and "gaussian" for other layers are
  /// `init::embedding_init`.
  init::Initializer find_initializer(
      const InitLoraWeights& value) const override;
  void check_config(const LoraConfig& config) const override;
  at::Tensor product(
      const at::Tensor& input,
      const std::vector<Term>& terms,
      const at::Tensor& bias) override;
  at::Tensor update(const at::Tensor& input, const Term& term) override;
  at::Tensor adapted_forward(
      const at::Tensor& input,
      const std::vector<Term>& terms) override;
  /// One-hot rows; ValueError for a table of more than 2^14 rows.
  at::Tensor weight_input(const at::Tensor& input) const override;

 private:
  at::Tensor look_up(const at::Tensor& table, const at::Tensor& input) const;

  torch::nn::EmbeddingImpl* base_;
};

} // namespace torchlora
