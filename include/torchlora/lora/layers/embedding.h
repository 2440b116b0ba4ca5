#pragma once

#include <ATen/Functions.h>
#include <torch/nn/modules/embedding.h>

#include <torchlora/detail/max_norm.h>
#include <torchlora/init/default.h>
#include <torchlora/lora/layer.h>
#include <torchlora/nn/embedding.h>

namespace torchlora {

/// The LoRA layer for layers that look up rows of a table W [num_embeddings,
/// embedding_dim]: they get rows of W + scaling · (B A)ᵀ, with A [r,
/// num_embeddings] and B [embedding_dim, r]. There is no dropout, as the input
/// is indices. The factors are named `lora_embedding_A` and `lora_embedding_B`,
/// as in PEFT.
class TORCHLORA_API LoraTable : public LoraLayer {
 public:
  /// PEFT's names for the factors of embeddings, which are parameters and not
  /// modules.
  static constexpr FactorNames kFactorNames{
      "lora_embedding_A",
      "lora_embedding_B",
      /*are_modules=*/false};

  /// `base_layer` looks up rows of the weight that `accessor` returns.
  LoraTable(
      const std::shared_ptr<Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraLayer(base_layer, std::move(accessor), kFactorNames) {}
  ~LoraTable() override;

  Tensor low_rank(const LayerCall& call, const Tensor& A, const Tensor& B)
      const override {
    return at::matmul(operate(call, A.t(), {}).to(B.scalar_type()), B.t());
  }

 protected:
  init::Factors construct_factors(const LoraConfig& /*config*/, int64_t r)
      const override {
    const auto base = base_weight();
    auto A = at::randn({r, base.in_features()});
    return {A, at::randn({base.out_features(), r})};
  }
  /// Returns `init::embedding_init`, which draws B and zeroes A, for
  /// initializers that draw A; the initializer's own function for any other.
  init::InitFunction init_function(
      const init::Initializer& initializer) const override {
    return initializer.traits.draws_A ? init::embedding_init
                                      : initializer.function;
  }
  void check_config(const LoraConfig& config) const override {
    TORCH_CHECK_VALUE(
        !config.lora_bias(),
        "[update_layer] lora_bias is not supported for embeddings, which have "
        "no bias");
    TORCH_CHECK_VALUE(
        !base_weight().weight().is_complex(),
        "[update_layer] a complex table cannot be adapted, as LibTorch has no "
        "gradient of its rows; leave it out by exclude_modules");
  }
};

/// The LoRA layer for `nn::Embedding` and `torch::nn::Embedding`. A lookup
/// returns a row of the adapted table times `embed_scale`. With `max_norm` the
/// layer limits the norm of the adapted row, so that a merged layer computes
/// the same (PEFT limits the rows of W and of A). No forward writes to W, also
/// not with disabled adapters. With `sparse` only a gradient of W is sparse,
/// that of A is dense. PEFT's `lora.Embedding`.
class TORCHLORA_API LoraEmbedding : public LoraTable {
 public:
  /// Makes a LoRA layer without adapters. `base_layer` is a
  /// `torch::nn::Embedding`.
  LoraEmbedding(
      const std::shared_ptr<Module>& base_layer,
      BaseWeightAccessor accessor)
      : LoraTable(base_layer, std::move(accessor)),
        base_(base_layer->as<torch::nn::EmbeddingImpl>()),
        own_(dynamic_cast<const nn::EmbeddingImpl*>(base_)) {
    TORCH_INTERNAL_ASSERT(base_);
  }
  ~LoraEmbedding() override;

  Tensor operate(const LayerCall& call, const Tensor& table, const Tensor& bias)
      const override {
    if (call.operation) {
      return LoraLayer::operate(call, table, bias);
    }
    const auto& options = base_->options;
    const auto rows = at::embedding(
        table,
        call.input,
        options.padding_idx().value_or(-1),
        options.scale_grad_by_freq(),
        options.sparse() && table.is_same(base_->weight));
    return own_ ? own_->widened(rows) : rows;
  }
  /// Returns the indices of the call as one-hot rows [n, num_embeddings].
  /// ValueError if the table has more than 2^14 rows.
  Tensor weight_inputs(const LayerCall& call) const override {
    constexpr int64_t kLargest = 1 << 14;
    const auto table = base_weight().weight();
    const auto rows = table.size(0);
    TORCH_CHECK_VALUE(
        rows <= kLargest,
        "[set_input_observer] an embedding's input is a row of as many "
        "elements as its table has rows; ",
        rows,
        " are more than ",
        kLargest,
        "; leave it out by exclude_modules");
    return at::one_hot(call.input.flatten(), rows).to(table.scalar_type());
  }
  WeightUse weight_use() const override {
    return WeightUse::kEmbedding;
  }

 protected:
  bool base_forward_writes() const override {
    return base_->options.max_norm().has_value();
  }
  Tensor adapted_forward(const LayerCall& call, ActiveUpdates updates)
      override {
    auto rows = LoraLayer::adapted_forward(call, updates);
    if (base_->options.max_norm()) {
      rows = (rows * detail::max_norm_scale(rows, base_->options))
                 .to(rows.scalar_type());
    }
    return own_ ? own_->scaled(rows) : rows;
  }

 private:
  torch::nn::EmbeddingImpl* base_;
  /// The same layer if it is one of torchlora's own.
  const nn::EmbeddingImpl* own_;
};

} // namespace torchlora
