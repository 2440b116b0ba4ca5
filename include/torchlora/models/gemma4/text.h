#pragma once

#include <functional>
#include <utility>

#include <torch/nn/pimpl.h>

#include <torchlora/models/gemma4/config.h>
#include <torchlora/nn/embedding.h>
#include <torchlora/nn/linear.h>

namespace torchlora::gemma4 {

/// Gives modules their weights by name. The modules are built around these
/// tensors, so nothing is allocated or initialized first.
class TORCHLORA_API TensorSource {
 public:
  /// Returns the tensor of a full name, which must have these sizes.
  using Get = std::function<Tensor(const std::string&, at::IntArrayRef)>;
  /// `prefix` is put before every name.
  explicit TensorSource(Get get, std::string prefix = "")
      : get_(std::move(get)), prefix_(std::move(prefix)) {}

  /// Returns the tensor `name` of this module. DataError if it has other sizes.
  Tensor operator()(const std::string& name, at::IntArrayRef sizes) const {
    return get_(prefix_ + name, sizes);
  }
  /// Returns the source for the child module `name`.
  TensorSource operator[](const std::string& name) const {
    return TensorSource(get_, prefix_ + name + ".");
  }

 private:
  Get get_;
  std::string prefix_;
};

/// y = x · (mean(x²) + eps)^-½ · w over the last dimension. Computes in fp32
/// (fp64 for fp64 inputs) and rounds once, at the end.
class TORCHLORA_API RMSNormImpl : public torch::nn::Module {
 public:
  /// Takes `weight` [size] from `source`.
  RMSNormImpl(const TensorSource& source, int64_t size, double eps);
  /// [*, size] → [*, size], in the input's dtype.
  Tensor forward(const Tensor& input);

  /// [size]
  Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RMSNorm);

/// The keys and values of one layer, each [B, heads, T, head_dim].
using KeyValue = std::pair<Tensor, Tensor>;

/// The inputs that all layers of one kind (sliding or full) share in a forward.
struct AttentionInputs {
  /// @{
  /// [T, head_dim] in the dtype of the hidden states.
  Tensor cos, sin;
  /// @}

  /// An additive mask [1 or B, 1, T, T]. Undefined: causal.
  Tensor mask;
  /// Whether the mask may hide every key of a query.
  bool has_padding = false;
};

/// transformers' `Gemma4TextAttention`.
class TORCHLORA_API AttentionImpl : public torch::nn::Module {
 public:
  /// Takes the weights from `source`.
  AttentionImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// [B, T, hidden] → [B, T, hidden]. A layer with its own keys and values
  /// writes `key_value`, any other layer reads it.
  Tensor forward(
      const Tensor& hidden,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// Children with transformers' names. A layer that reads the keys and values
  /// of another has no `k_proj`, `v_proj` and `k_norm`; one with `k_eq_v` has
  /// no `v_proj`.
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
  /// Takes the weights from `source`.
  MLPImpl(
      const TensorSource& source,
      int64_t hidden_size,
      int64_t intermediate_size);
  /// [*, hidden_size] → [*, hidden_size]
  Tensor forward(const Tensor& hidden);

  /// @{
  /// Children with transformers' names.
  nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
  /// @}
};
TORCH_MODULE(MLP);

/// transformers' `Gemma4TextDecoderLayer`.
class TORCHLORA_API DecoderLayerImpl : public torch::nn::Module {
 public:
  /// Takes the weights from `source`.
  DecoderLayerImpl(
      const TensorSource& source,
      const TextConfig& config,
      const TextConfig::Layer& layer);
  /// [B, T, hidden] → [B, T, hidden]. `per_layer_input` is
  /// [B, T, hidden_size_per_layer_input], or undefined for a model without
  /// per-layer inputs.
  Tensor forward(
      const Tensor& hidden,
      const Tensor& per_layer_input,
      const AttentionInputs& inputs,
      KeyValue& key_value);

  /// @{
  /// Children with transformers' names. Those of per-layer inputs are empty in
  /// a model without them.
  Attention self_attn{nullptr};
  MLP mlp{nullptr};
  RMSNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
  RMSNorm pre_feedforward_layernorm{nullptr};
  RMSNorm post_feedforward_layernorm{nullptr};
  nn::Linear per_layer_input_gate{nullptr}, per_layer_projection{nullptr};
  RMSNorm post_per_layer_input_norm{nullptr};
  Tensor layer_scalar;
  /// @}
};
TORCH_MODULE(DecoderLayer);

/// Gemma 4's language model without the head: transformers' `Gemma4TextModel`
/// with its module names.
class TORCHLORA_API TextModelImpl : public torch::nn::Module {
 public:
  /// Takes the weights from `source`.
  TextModelImpl(const TensorSource& source, const Config& config);

  /// Returns hidden states [B, T, hidden_size] after the last norm of
  /// `input_ids` [B, T] (int64). `attention_mask` [B, T] is 1 for real tokens;
  /// undefined means that all tokens are real. Rows that are padded on the
  /// right need no mask: the states of their real tokens are exact without one,
  /// and no mask per row is built. `layer_outputs`, if given, receives the
  /// output of each layer. ValueError for other shapes.
  Tensor forward(
      const Tensor& input_ids,
      const Tensor& attention_mask = {},
      std::vector<Tensor>* layer_outputs = nullptr);

  const TextConfig& config() const {
    return config_;
  }

  /// @{
  /// Children with transformers' names. Those of per-layer inputs are empty in
  /// a model without them.
  nn::Embedding embed_tokens{nullptr}, embed_tokens_per_layer{nullptr};
  std::vector<DecoderLayer> layers;
  RMSNorm norm{nullptr}, per_layer_projection_norm{nullptr};
  nn::Linear per_layer_model_projection{nullptr};
  /// @}

 private:
  Tensor per_layer_inputs(const Tensor& input_ids, const Tensor& embeddings);

  TextConfig config_;
  std::vector<int64_t> placeholder_token_ids_;
};
TORCH_MODULE(TextModel);

} // namespace torchlora::gemma4
