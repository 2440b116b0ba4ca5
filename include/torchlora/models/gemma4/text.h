#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

namespace torchlora::gemma4 {

/// Gives the tensor of a name and these sizes: modules are built around their
/// weights, nothing is allocated or initialised first.
class TORCHLORA_API TensorSource {
 public:
  /// Gives the tensor of a full name.
  using Get = std::function<at::Tensor(const std::string&, at::IntArrayRef)>;
  /// `prefix` goes before every name.
  explicit TensorSource(Get get, std::string prefix = "")
      : get_(std::move(get)), prefix_(std::move(prefix)) {}

  /// The tensor `name` of this module. DataError if it has other sizes.
  at::Tensor operator()(const std::string& name, at::IntArrayRef sizes) const {
    return get_(prefix_ + name, sizes);
  }
  /// The source for the module `name` below this one.
  TensorSource operator[](const std::string& name) const {
    return TensorSource(get_, prefix_ + name + ".");
  }

 private:
  Get get_;
  std::string prefix_;
};

/// y = x · (mean(x²) + eps)^-½ · w over the last dimension, computed in fp32
/// for half types (fp64 stays) and rounded once, at the end.
class TORCHLORA_API RMSNormImpl : public torch::nn::Module {
 public:
  /// Takes `weight` [size] of `source`.
  RMSNormImpl(const TensorSource& source, int64_t size, double eps);
  /// [*, size] → [*, size], in the input's dtype.
  at::Tensor forward(const at::Tensor& input);

  /// [size]
  at::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RMSNorm);

/// Keys and values of one layer, [B, heads, T, head_dim].
using KeyValue = std::pair<at::Tensor, at::Tensor>;

/// What all layers of one kind (sliding or full) have in common in a forward.
struct AttentionInputs {
  /// @{
  /// [T, head_dim], in the hidden states' dtype.
  at::Tensor cos, sin;
  /// @}

  /// Additive mask [1 or B, 1, T, T]; undefined: causal.
  at::Tensor mask;
  /// Whether the mask may hide every key of a row.
  bool has_padding = false;
};

/// transformers' `Gemma4TextAttention`.
class TORCHLORA_API AttentionImpl : public torch::nn::Module {
 public:
  /// Takes its weights of `source`.
  AttentionImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// [B, T, hidden] → [B, T, hidden]. A layer with keys of its own fills
  /// `key_value`, another one reads it.
  at::Tensor forward(
      const at::Tensor& hidden,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// By transformers' names; those of keys and values are empty where another
  /// layer's are read, `v_proj` also with `k_eq_v`.
  nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};
  RMSNorm q_norm{nullptr}, k_norm{nullptr};
  /// @}

 private:
  TextConfig::Layer layer_;
  double eps_;
};
TORCH_MODULE(Attention);

/// down(gelu_tanh(gate x) · up x).
class TORCHLORA_API MLPImpl : public torch::nn::Module {
 public:
  /// Takes its weights of `source`.
  MLPImpl(
      const TensorSource& source,
      int64_t hidden_size,
      int64_t intermediate_size);
  /// [*, hidden_size] → [*, hidden_size]
  at::Tensor forward(const at::Tensor& hidden);

  /// @{
  /// By transformers' names.
  nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
  /// @}
};
TORCH_MODULE(MLP);

/// transformers' `Gemma4TextDecoderLayer`.
class TORCHLORA_API DecoderLayerImpl : public torch::nn::Module {
 public:
  /// Takes its weights of `source`.
  DecoderLayerImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// `per_layer_input` [B, T, hidden_size_per_layer_input], or undefined.
  at::Tensor forward(
      const at::Tensor& hidden,
      const at::Tensor& per_layer_input,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// By transformers' names; those of per-layer inputs are empty without them.
  Attention self_attn{nullptr};
  MLP mlp{nullptr};
  RMSNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
  RMSNorm pre_feedforward_layernorm{nullptr};
  RMSNorm post_feedforward_layernorm{nullptr};
  nn::Linear per_layer_input_gate{nullptr}, per_layer_projection{nullptr};
  RMSNorm post_per_layer_input_norm{nullptr};
  at::Tensor layer_scalar;
  /// @}
};
TORCH_MODULE(DecoderLayer);

/// Gemma 4's language model without head; transformers' `Gemma4TextModel`
/// with its module names.
class TORCHLORA_API TextModelImpl : public torch::nn::Module {
 public:
  /// Takes its weights of `source`.
  TextModelImpl(const TensorSource& source, const Config& config);

  /// Hidden states [B, T, hidden_size] after the last norm of `input_ids`
  /// [B, T] (int64); `attention_mask` [B, T], 1 for real tokens, undefined: all
  /// are, which is exact for padding on the right too (the padding's own
  /// states aside) and costs no mask a row. ValueError on other shapes.
  /// `layer_outputs`, if given, receives the output of each layer.
  at::Tensor forward(
      const at::Tensor& input_ids,
      const at::Tensor& attention_mask = {},
      std::vector<at::Tensor>* layer_outputs = nullptr);

  /// Of the language model.
  const TextConfig& config() const {
    return config_;
  }

  /// @{
  /// By transformers' names; those of per-layer inputs are empty without them.
  nn::Embedding embed_tokens{nullptr}, embed_tokens_per_layer{nullptr};
  std::vector<DecoderLayer> layers;
  RMSNorm norm{nullptr}, per_layer_projection_norm{nullptr};
  nn::Linear per_layer_model_projection{nullptr};
  /// @}

 private:
  at::Tensor per_layer_inputs(
      const at::Tensor& input_ids,
      const at::Tensor& embeddings);

  TextConfig config_;
  std::vector<int64_t> placeholder_token_ids_;
};
TORCH_MODULE(TextModel);

} // namespace torchlora::gemma4
