#pragma once

#include <torch/nn/modules/embedding.h>

#include <torchlora/lora/layers/embedding.h>

namespace torchlora {

/// The LoRA layer for `torch::nn::EmbeddingBag` with mode sum or mean. The sum
/// or mean of a bag of rows is linear in the table, so the adapted bag is
///
///     bag(W) + scaling · bag(Aᵀ) Bᵀ
///
/// The layer is adapted through the weight overlay (`lora/overlay.h`).
/// ValueError for mode max and for `max_norm`. The factors have an embedding's
/// names. PEFT has no counterpart.
class TORCHLORA_API LoraEmbeddingBag : public LoraTable {
 public:
  /// Makes a LoRA layer without adapters. `base_layer` must be a
  /// `torch::nn::EmbeddingBag`.
  using LoraTable::LoraTable;
  ~LoraEmbeddingBag() override;

  WeightUse weight_use() const override {
    return WeightUse::kEmbeddingBag;
  }

 protected:
  void check_config(const LoraConfig& config) const override {
    LoraTable::check_config(config);
    const auto& options =
        base_layer()->as<torch::nn::EmbeddingBagImpl>()->options;
    TORCH_CHECK_VALUE(
        !std::holds_alternative<torch::enumtype::kMax>(options.mode()),
        "[update_layer] an EmbeddingBag of mode max cannot be adapted: the "
        "largest of the adapted rows is not known without the dense table; "
        "leave it out by exclude_modules");
    TORCH_CHECK_VALUE(
        !options.max_norm(),
        "[update_layer] an EmbeddingBag with max_norm cannot be adapted; leave "
        "it out by exclude_modules");
  }
};

} // namespace torchlora
